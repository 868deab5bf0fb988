"""MSCAN (SegNeXt) of mmseg. Its GELUs come after convolutions, so they are converted. Its stem ignores ``act_cfg``."""

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
