"""MSCAN (SegNeXt) of mmseg, whose GELUs follow convolutions. Its stem takes no notice of the network's ``act_cfg``."""

from ...hosts import Host


class MlpSites(Host):
    """``act`` after the depthwise convolution."""

    upstream = ("mmseg.models.backbones.mscan.Mlp.forward",)
    before = {"act": "dwconv"}
    shared = None


class SpatialAttentionSites(Host):
    """``activation`` after the first projection."""

    upstream = ("mmseg.models.backbones.mscan.MSCASpatialAttention.forward",)
    before = {"activation": "proj_1"}
    shared = None
