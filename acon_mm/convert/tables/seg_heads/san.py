"""SAN of mmseg: its perceptron, which calls ``F.relu`` after each layer but the last, and its text encoder."""

from typing import Any

from ...hosts import LANGUAGE_MODEL, Host, HostSite
from ..common import sites_after


class MLPSites(Host):
    """``acts.N`` after layer N."""

    upstream = ("mmseg.models.utils.san_layers.MLP.forward",)
    calls = {"forward": ("self.acts[i]",)}
    shared = None

    @classmethod
    def sites(cls, module: Any) -> list[HostSite]:
        return sites_after(module.layers[:-1], "acts")


class CLIPTextEncoderSites(Host):
    """The part of CLIP that reads the names of the classes."""

    upstream = ("mmseg.models.text_encoder.clip_text_encoder.CLIPTextEncoder.forward",)
    reason_to_keep_all = LANGUAGE_MODEL
