"""MiT (SegFormer) of mmseg: the attribute ``activate`` of its feed-forward networks is also one of their layers."""

from ...hosts import Host


class MixFFNSites(Host):
    """``layers.2``, after the depthwise convolution."""

    upstream = ("mmseg.models.backbones.mit.MixFFN.forward",)
    before = {"layers.2": "layers.1"}
    shared = "activate"
