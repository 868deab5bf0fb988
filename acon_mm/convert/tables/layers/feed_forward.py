"""Feed-forward networks of attention layers.

Their GELUs, and the QuickGELU of CLIP, are kept, because pretrained transformers need them. A class that takes
``act_cfg`` for them (Swin, PVT, MiT, ViT, ...) gets it, and then they become ACONs.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from ...hosts import Host, HostSite, register_sites

GELU = "a GELU in a transformer's feed-forward network: only the act_cfg of the class itself reaches it"


@register_sites("mmcv.cnn.bricks.transformer.FFN.forward")
class FFNSites(Host):
    """``layers.N.1`` after each linear layer but the last, unless it is a GELU."""

    shared: ClassVar[str | None] = None

    @classmethod
    def sites(cls, module: Any) -> list[HostSite]:
        hidden = [(i, layer) for i, layer in enumerate(module.layers) if isinstance(layer, nn.Sequential)]
        return [HostSite(f"layers.{i}.1", layer[0]) for i, layer in hidden if not _is_gelu(layer[1])]

    @classmethod
    def kept(cls, module: Any) -> dict[str, str]:
        gelus = [name for name, layer in module.named_modules(remove_duplicate=False) if _is_gelu(layer)]
        return dict.fromkeys(gelus, GELU)


@register_sites("mmdet.models.backbones.pvt.MixFFN.forward", "mmseg.models.backbones.mit.MixFFN.forward")
class MixFFNSites(FFNSites):
    """``layers.N`` after the depthwise convolution, or the first 1x1 convolution, unless it is a GELU."""

    shared = "activate"  # of mmseg, where it is also one of the layers

    @classmethod
    def sites(cls, module: Any) -> list[HostSite]:
        convs = [layer for layer in module.layers if isinstance(layer, nn.Conv2d)]
        index = len(convs) - 1  # the last convolution comes after the activation
        if _is_gelu(module.layers[index]):
            return []
        return [HostSite(f"layers.{index}", module.layers[index - 1])]


def _is_gelu(layer: nn.Module) -> bool:
    # QuickGELU by its name, because it is mmseg's, which may not be installed.
    return isinstance(layer, nn.GELU) or type(layer).__name__ == "QuickGELU"
