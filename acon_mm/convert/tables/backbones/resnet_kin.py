"""mmdet's backbones that run a ResNet's layers in a way of their own."""

from torch import nn

from ...hosts import Host, HostSite
from .resnet import BottleneckSites, ResNetSites


class RegNetSites(ResNetSites):
    """The stem, as a ResNet's."""

    upstream = ("mmdet.models.backbones.regnet.RegNet.forward",)


class Res2NetBottleneckSites(Host):
    """As a Bottleneck's, with ``act2.N`` after each 3x3 convolution of a split."""

    upstream = ("mmdet.models.backbones.res2net.Bottle2neck.forward",)
    calls = {"forward": ("self.act1", "self.act2[0]", "self.act2[i]", "self.act3")}

    @classmethod
    def sites(cls, module: nn.Module) -> list[HostSite]:
        return [
            HostSite("act1", module.conv1),
            *(HostSite(f"act2.{i}", conv, paper=True) for i, conv in enumerate(module.convs)),
            HostSite("act3", module.conv3),
        ]


class TridentBottleneckSites(BottleneckSites):
    """As a Bottleneck's; the three branches share weights and so activations."""

    upstream = ("mmdet.models.backbones.trident_resnet.TridentBottleneck.forward",)


class DetectoRSSites(ResNetSites):
    """The stem, as a ResNet's, whose forward it calls; ``rfp_forward`` goes through it once more."""

    upstream = ("mmdet.models.backbones.detectors_resnet.DetectoRS_ResNet.forward",)


class HourglassSites(Host):
    """``acts.N`` after the sum between two hourglasses."""

    upstream = ("mmdet.models.backbones.hourglass.HourglassNet.forward",)
    calls = {"forward": ("self.acts[ind]",)}
    is_backbone = True

    @classmethod
    def sites(cls, module: nn.Module) -> list[HostSite]:
        return [HostSite(f"acts.{i}", conv) for i, conv in enumerate(module.conv1x1s)]
