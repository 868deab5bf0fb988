"""ResNet of mmdet and mmseg: one ReLU serves a whole block, and one the stem.

Every class of the ResNet family that inherits these forwards is covered (ResNetV1c, ResNetV1d, ResNeXt, ...).
"""

from torch import nn

from ...hosts import Host, HostSite


class BasicBlockSites(Host):
    """conv1-norm1-``act1``-conv2-norm2-(+)-``act2``; the authors activate at both."""

    upstream = (
        "mmdet.models.backbones.resnet.BasicBlock.forward",
        "mmseg.models.backbones.resnet.BasicBlock.forward",
    )
    calls = {"forward": ("self.act1", "self.act2")}
    before = {"act1": "conv1", "act2": "conv2"}
    paper = ("act1", "act2")


class BottleneckSites(Host):
    """conv1-norm1-``act1``-conv2-norm2-``act2``-conv3-norm3-(+)-``act3``; the authors activate at ``act2``.

    DetectoRS adds a second forward, which takes features of the pyramid before.
    """

    upstream = (
        "mmdet.models.backbones.resnet.Bottleneck.forward",
        "mmseg.models.backbones.resnet.Bottleneck.forward",
    )
    calls = dict.fromkeys(("forward", "rfp_forward"), ("self.act1", "self.act2", "self.act3"))
    before = {"act1": "conv1", "act2": "conv2", "act3": "conv3"}
    paper = ("act2",)


class ResNetSites(Host):
    """The stem of a ResNet, ``relu`` after norm1, called ``stem``. A deep stem is a Sequential and needs no entry."""

    upstream = (
        "mmdet.models.backbones.resnet.ResNet.forward",
        "mmseg.models.backbones.resnet.ResNet.forward",
    )
    is_backbone = True

    @classmethod
    def sites(cls, module: nn.Module) -> list[HostSite]:
        return [] if module.deep_stem else [HostSite("relu", module.conv1, name="stem")]

    def _freeze_stages(self) -> None:
        super()._freeze_stages()
        if self.frozen_stages >= 0 and not self.deep_stem:
            # upstream freezes conv1 and norm1 only, since a ReLU has nothing to freeze
            self.relu.eval().requires_grad_(False)
