"""SAN of mmseg: its perceptron, which calls ``F.relu`` after each layer but the last, and its text encoder."""

from torch import nn

from ...hosts import Host, HostSite
from ..det_heads.transformers import BertSites


class MLPSites(Host):
    """``acts.N`` after layer N."""

    upstream = ("mmseg.models.utils.san_layers.MLP.forward",)
    calls = {"forward": ("self.acts[i]",)}
    shared = None

    @classmethod
    def sites(cls, module: nn.Module) -> list[HostSite]:
        return [HostSite(f"acts.{i}", layer) for i, layer in enumerate(module.layers[:-1])]


class CLIPTextEncoderSites(Host):
    """The part of CLIP that reads the names of the classes."""

    upstream = ("mmseg.models.text_encoder.clip_text_encoder.CLIPTextEncoder.forward",)
    reason_to_keep_all = BertSites.reason_to_keep_all
