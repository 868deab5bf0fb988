"""RegNet, Res2Net, TridentNet and DetectoRS of mmdet: ResNets with another forward, or another block."""

from typing import Any

from ...hosts import Host, HostSite, register_sites
from .resnet import BottleneckSites, ResNetSites


@register_sites("mmdet.models.backbones.regnet.RegNet.forward", "mmpretrain.models.backbones.regnet.RegNet.forward")
class RegNetSites(ResNetSites):
    """The stem, as in a ResNet."""


@register_sites(
    "mmdet.models.backbones.res2net.Bottle2neck.forward", "mmpretrain.models.backbones.res2net.Bottle2neck.forward"
)
class Res2NetBottleneckSites(Host):
    """As in a Bottleneck, but with ``act2.N`` after the N-th 3x3 convolution."""

    calls = {"forward": ("self.act1", "self.act2[0]", "self.act2[i]", "self.act3")}

    @classmethod
    def sites(cls, module: Any) -> list[HostSite]:
        return [
            HostSite("act1", module.conv1),
            *(HostSite(f"act2.{i}", conv, paper=True) for i, conv in enumerate(module.convs)),
            HostSite("act3", module.conv3),
        ]


@register_sites("mmdet.models.backbones.trident_resnet.TridentBottleneck.forward")
class TridentBottleneckSites(BottleneckSites):
    """As in a Bottleneck. The three branches share their weights, and so their activations."""


@register_sites("mmdet.models.backbones.detectors_resnet.DetectoRS_ResNet.forward")
class DetectoRSSites(ResNetSites):
    """The stem, as in a ResNet. Both ``forward`` and ``rfp_forward`` use it."""
