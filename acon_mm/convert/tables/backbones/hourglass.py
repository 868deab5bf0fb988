"""HourglassNet of mmdet, the backbone of CornerNet."""

from typing import Any

from ...hosts import Host, HostSite
from ..common import sites_after


class HourglassSites(Host):
    """``acts.N`` after the sum between two hourglasses."""

    upstream = ("mmdet.models.backbones.hourglass.HourglassNet.forward",)
    calls = {"forward": ("self.acts[ind]",)}
    is_backbone = True

    @classmethod
    def sites(cls, module: Any) -> list[HostSite]:
        return sites_after(module.conv1x1s, "acts")
