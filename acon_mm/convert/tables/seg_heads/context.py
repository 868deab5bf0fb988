"""Decode heads of mmseg that gather context: their activations outside of ConvModules."""

from typing import Any

from ...hosts import Host


class EncModuleSites(Host):
    """EncHead: ``act`` on the weighted features. (At ``encoding.2``, a site as well, the channels are code words.)"""

    upstream = ("mmseg.models.decode_heads.enc_head.EncModule.forward",)
    calls = {"forward": ("self.act",)}
    before = {"act": "encoding_project"}
    shared = None


class EMAHeadSites(Host):
    """``act1`` on the features that the attention reconstructs, ``act2`` after the sum."""

    upstream = ("mmseg.models.decode_heads.ema_head.EMAHead.forward",)
    calls = {"forward": ("self.act1", "self.act2")}
    # The layer before act1 is ema_mid_conv, but that is always frozen. ema_in_conv has as many channels.
    before = {"act1": "ema_in_conv", "act2": "ema_out_conv"}
    shared = None


class ACMSites(Host):
    """APCHead: ``act`` after the sum."""

    upstream = ("mmseg.models.decode_heads.apc_head.ACM.forward",)
    calls = {"forward": ("self.act",)}
    before = {"act": "residual_conv"}
    shared = None


class DCMSites(Host):
    """DMHead: ``activate`` after the dynamic convolution, which keeps the number of channels."""

    upstream = ("mmseg.models.decode_heads.dm_head.DCM.forward",)
    before = {"activate": "input_redu_conv"}
    shared = None


class HamburgerSites(Host):
    """LightHamHead: ``act`` after the sum."""

    upstream = ("mmseg.models.decode_heads.ham_head.Hamburger.forward",)
    calls = {"forward": (None, "self.act")}
    before = {"act": "ham_out"}
    shared = None

    @classmethod
    def kept(cls, module: Any) -> dict[str, str]:
        return {
            "F.relu(enjoy, inplace=True)": "the non-negative matrix factorization behind it takes no negative values"
        }
