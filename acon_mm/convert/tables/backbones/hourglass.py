"""HourglassNet of mmdet, the backbone of CornerNet."""

from typing import Any

from ...hosts import Host, HostSite, register_sites
from ..common import sites_after


@register_sites("mmdet.models.backbones.hourglass.HourglassNet.forward")
class HourglassSites(Host):
    """``acts.N`` after the sum between two hourglasses."""

    calls = {"forward": ("self.acts[ind]",)}
    is_backbone = True

    @classmethod
    def sites(cls, module: Any) -> list[HostSite]:
        return sites_after(module.conv1x1s, "acts")
