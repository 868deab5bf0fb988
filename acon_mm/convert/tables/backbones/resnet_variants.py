"""RegNet, Res2Net, TridentNet and DetectoRS of mmdet: ResNets with another forward, or another block."""

from typing import Any

from ...hosts import Host, HostSite
from .resnet import BottleneckSites, ResNetSites


class RegNetSites(ResNetSites):
    """The stem, as in a ResNet."""

    upstream = ("mmdet.models.backbones.regnet.RegNet.forward",)


class Res2NetBottleneckSites(Host):
    """As in a Bottleneck, but with ``act2.N`` after the N-th 3x3 convolution."""

    upstream = ("mmdet.models.backbones.res2net.Bottle2neck.forward",)
    calls = {"forward": ("self.act1", "self.act2[0]", "self.act2[i]", "self.act3")}

    @classmethod
    def sites(cls, module: Any) -> list[HostSite]:
        return [
            HostSite("act1", module.conv1),
            *(HostSite(f"act2.{i}", conv, paper=True) for i, conv in enumerate(module.convs)),
            HostSite("act3", module.conv3),
        ]


class TridentBottleneckSites(BottleneckSites):
    """As in a Bottleneck. The three branches share their weights, and so their activations."""

    upstream = ("mmdet.models.backbones.trident_resnet.TridentBottleneck.forward",)


class DetectoRSSites(ResNetSites):
    """The stem, as in a ResNet. Both ``forward`` and ``rfp_forward`` use it."""

    upstream = ("mmdet.models.backbones.detectors_resnet.DetectoRS_ResNet.forward",)
