"""HourglassNet of mmdet, the backbone of CornerNet."""

from torch import nn

from ...hosts import Host, HostSite


class HourglassSites(Host):
    """``acts.N`` after the sum between two hourglasses."""

    upstream = ("mmdet.models.backbones.hourglass.HourglassNet.forward",)
    calls = {"forward": ("self.acts[ind]",)}
    is_backbone = True

    @classmethod
    def sites(cls, module: nn.Module) -> list[HostSite]:
        return [HostSite(f"acts.{i}", conv) for i, conv in enumerate(module.conv1x1s)]
