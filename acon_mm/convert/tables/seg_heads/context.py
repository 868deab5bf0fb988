"""Decode heads of mmseg that gather context: their activations outside of ConvModules."""

from typing import Any

from ...hosts import Host, register_sites


@register_sites("mmseg.models.decode_heads.ema_head.EMAHead.forward")
class EMAHeadSites(Host):
    """``act1`` on the features that the attention reconstructs, ``act2`` after the sum."""

    calls = {"forward": ("self.act1", "self.act2")}
    # The layer before act1 is ema_mid_conv, but that is always frozen. ema_in_conv has as many channels.
    before = {"act1": "ema_in_conv", "act2": "ema_out_conv"}
    shared = None


@register_sites("mmseg.models.decode_heads.ham_head.Hamburger.forward")
class HamburgerSites(Host):
    """LightHamHead: ``act`` after the sum."""

    calls = {"forward": (None, "self.act")}
    before = {"act": "ham_out"}
    shared = None

    @classmethod
    def kept(cls, module: Any) -> dict[str, str]:
        return {
            "F.relu(enjoy, inplace=True)": "the non-negative matrix factorization behind it takes no negative values"
        }
