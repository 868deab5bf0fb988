"""Decode heads of mmseg that gather context: what activates in them besides their ConvModules."""

from torch import nn

from ...hosts import Host


class EncModuleSites(Host):
    """EncHead: ``act`` after the features are weighted. (``encoding.2`` acts on code words, not on channels.)"""

    upstream = ("mmseg.models.decode_heads.enc_head.EncModule.forward",)
    calls = {"forward": ("self.act",)}
    before = {"act": "encoding_project"}
    shared = None


class EMAHeadSites(Host):
    """``act1`` on what the attention reconstructs, ``act2`` after the sum."""

    upstream = ("mmseg.models.decode_heads.ema_head.EMAHead.forward",)
    calls = {"forward": ("self.act1", "self.act2")}
    # As wide as ema_mid_conv, which is always frozen, as what follows it must not be.
    before = {"act1": "ema_in_conv", "act2": "ema_out_conv"}
    shared = None


class ACMSites(Host):
    """APCHead: ``act`` after the sum."""

    upstream = ("mmseg.models.decode_heads.apc_head.ACM.forward",)
    calls = {"forward": ("self.act",)}
    before = {"act": "residual_conv"}
    shared = None


class DCMSites(Host):
    """DMHead: ``activate`` after the dynamic convolution, which has as many channels as go in."""

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
    def kept(cls, module: nn.Module) -> dict[str, str]:
        return {
            "F.relu(enjoy, inplace=True)": "the non-negative matrix factorisation behind it takes no negative values"
        }
