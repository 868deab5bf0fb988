"""ResNeSt of mmdet and mmseg: a ResNet with a split-attention block in place of each 3x3 convolution."""

from ...hosts import Host, register_sites


@register_sites(
    "mmdet.models.backbones.resnest.Bottleneck.forward",
    "mmseg.models.backbones.resnest.Bottleneck.forward",
    "mmpretrain.models.backbones.resnest.Bottleneck.forward",
)
class BottleneckSites(Host):
    """conv1-norm1-``act1``-split attention-conv3-norm3-(+)-``act3``. The act2 of a ResNet is inside of conv2."""

    calls = {"forward": ("self.act1", "self.act3")}
    before = {"act1": "conv1", "act3": "conv3"}


@register_sites(
    "mmdet.models.backbones.resnest.SplitAttentionConv2d.forward",
    "mmseg.models.backbones.resnest.SplitAttentionConv2d.forward",
    "mmpretrain.models.backbones.resnest.SplitAttentionConv2d.forward",
)
class SplitAttentionSites(Host):
    """``act2`` (the paper's site) after the 3x3 convolution and norm0; ``gate_act`` inside of the attention."""

    calls = {"forward": ("self.act2", "self.gate_act")}
    before = {"act2": "conv", "gate_act": "fc1"}
    paper = ("act2",)
