"""ResNet of mmdet and mmseg: each block uses one ReLU at all its sites, and the stem has one.

The entries also serve all classes that inherit these forwards (ResNetV1c, ResNetV1d, ResNeXt, ...).
"""

from typing import Any

from ...hosts import Host, HostSite, register_sites


@register_sites(
    "mmdet.models.backbones.resnet.BasicBlock.forward",
    "mmseg.models.backbones.resnet.BasicBlock.forward",
    "mmpretrain.models.backbones.resnet.BasicBlock.forward",
)
class BasicBlockSites(Host):
    """conv1-norm1-``act1``-conv2-norm2-(+)-``act2``. The authors have an ACON at both."""

    calls = {"forward": ("self.act1", "self.act2")}
    before = {"act1": "conv1", "act2": "conv2"}
    paper = ("act1", "act2")


@register_sites(
    "mmdet.models.backbones.resnet.Bottleneck.forward",
    "mmseg.models.backbones.resnet.Bottleneck.forward",
    "mmpretrain.models.backbones.resnet.Bottleneck.forward",
)
class BottleneckSites(Host):
    """conv1-norm1-``act1``-conv2-norm2-``act2``-conv3-norm3-(+)-``act3``. The authors have an ACON at ``act2``.

    DetectoRS adds a second forward, ``rfp_forward``, which also takes features of the pyramid.
    """

    calls = dict.fromkeys(("forward", "rfp_forward"), ("self.act1", "self.act2", "self.act3"))
    before = {"act1": "conv1", "act2": "conv2", "act3": "conv3"}
    paper = ("act2",)


@register_sites(
    "mmdet.models.backbones.resnet.ResNet.forward",
    "mmseg.models.backbones.resnet.ResNet.forward",
    "mmpretrain.models.backbones.resnet.ResNet.forward",
)
class ResNetSites(Host):
    """The stem: ``relu`` after norm1, with the name ``stem``. A deep stem is a Sequential and has no site here."""

    is_backbone = True

    @classmethod
    def sites(cls, module: Any) -> list[HostSite]:
        return [] if module.deep_stem else [HostSite("relu", module.conv1, name="stem")]

    def _freeze_stages(self) -> None:
        super()._freeze_stages()
        if self.frozen_stages >= 0 and not self.deep_stem:
            # upstream freezes only conv1 and norm1, because a ReLU has no parameters
            self.relu.eval().requires_grad_(False)
