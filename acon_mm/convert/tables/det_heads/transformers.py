"""DETR and similar detectors, MaskFormer and Sparse R-CNN: their activations outside of Sequentials.

Their feed-forward networks are Sequentials of Linear and ReLU and need no entry here. Tokens have the channels last:
(batch, tokens, channels).
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ...hosts import LANGUAGE_MODEL, Host, HostSite, register_sites
from ..common import sites_after


@register_sites("mmdet.models.layers.transformer.utils.MLP.forward")
class MLPSites(Host):
    """``acts`` after each linear layer but the last."""

    shared = None
    calls = {"forward": ("self.per_sample(layer)",)}

    @classmethod
    def sites(cls, module: Any) -> list[HostSite]:
        return sites_after(module.layers[:-1], "acts")

    def per_sample(self, layer: nn.Module) -> Callable[[Tensor], Tensor]:
        # The input may be (decoder layers, batch, tokens, channels). A Meta-ACON must not take the mean over the batch.
        act = self.act_after(layer)
        return lambda x: act(x.flatten(0, -3)).view_as(x) if x.dim() > 3 else act(x)


@register_sites("mmdet.models.dense_heads.detr_head.DETRHead.forward")
class DETRHeadSites(Host):
    """``activate`` after the feed-forward network of the boxes."""

    shared = "activate"

    @classmethod
    def sites(cls, module: Any) -> list[HostSite]:
        last = [layer for layer in module.reg_ffn.layers if isinstance(layer, nn.Linear)][-1]
        return [HostSite("activate", last)]

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, ...]:
        # (decoder layers, batch, tokens, channels): a Meta-ACON must not take the mean over the batch.
        outputs = super().forward(hidden_states.flatten(0, 1))
        return tuple(output.unflatten(0, hidden_states.shape[:2]) for output in outputs)


@register_sites("mmdet.models.dense_heads.maskformer_head.MaskFormerHead.forward")
class MaskFormerHeadSites(Host):
    """``mask_embed.1`` and ``mask_embed.3``."""

    shared = None
    calls = {"forward": ("self.embed_per_sample",)}
    also_calls = ("self.mask_embed",)
    before = {"mask_embed.1": "mask_embed.0", "mask_embed.3": "mask_embed.2"}

    def embed_per_sample(self, x: Tensor) -> Tensor:
        # (decoder layers, batch, tokens, channels), as in DETRHead
        return self.mask_embed(x.flatten(0, 1)).unflatten(0, x.shape[:2])


@register_sites("mmdet.models.layers.transformer.utils.DynamicConv.forward")
class DynamicConvSites(Host):
    """``act_in`` after norm_in, ``act_out`` after norm_out, and ``act_fc`` after the norm of the projection.

    In CondInst, channels have another meaning for each instance. Here they do not: a norm comes before each site.
    """

    shared = "activation"
    calls = {"forward": ("self.act_in", "self.act_out", "self.act_fc")}

    @classmethod
    def sites(cls, module: Any) -> list[HostSite]:
        sites = [HostSite("act_in", module.norm_in), HostSite("act_out", module.norm_out)]
        return [*sites, HostSite("act_fc", module.fc_norm)] if module.with_proj else sites


@register_sites("mmdet.models.language_models.bert.BertModel.forward")
class BertSites(Host):
    """The language model of Grounding DINO and GLIP."""

    reason_to_keep_all = LANGUAGE_MODEL
