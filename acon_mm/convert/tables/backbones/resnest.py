"""ResNeSt of mmdet and mmseg: a ResNet whose 3x3 convolution is a split-attention block with activations of its own."""

from ...hosts import Host


class BottleneckSites(Host):
    """conv1-norm1-``act1``-split attention-conv3-norm3-(+)-``act3``; what is act2 in a ResNet is inside of conv2."""

    upstream = (
        "mmdet.models.backbones.resnest.Bottleneck.forward",
        "mmseg.models.backbones.resnest.Bottleneck.forward",
    )
    calls = {"forward": ("self.act1", "self.act3")}
    before = {"act1": "conv1", "act3": "conv3"}


class SplitAttentionSites(Host):
    """The 3x3 convolution-norm0-``act2`` (the paper's site); ``gate_act`` between the layers of the attention."""

    upstream = (
        "mmdet.models.backbones.resnest.SplitAttentionConv2d.forward",
        "mmseg.models.backbones.resnest.SplitAttentionConv2d.forward",
    )
    calls = {"forward": ("self.act2", "self.gate_act")}
    before = {"act2": "conv", "gate_act": "fc1"}
    paper = ("act2",)
