"""CLRNet, the lane detector of the maintained fork of mmdet."""

from typing import Any

from ...hosts import Host, HostSite, register_sites
from ..common import sites_in_list


@register_sites("mmdet.models.dense_heads.clr_head.clr_head.CLRHead.forward")
class CLRHeadSites(Host):
    """``cls_modules`` and ``reg_modules`` are lists in which each linear layer is followed by an activation."""

    shared = None

    @classmethod
    def sites(cls, module: Any) -> list[HostSite]:
        return [
            *sites_in_list(module.reg_modules, "reg_modules", every=2),
            *sites_in_list(module.cls_modules, "cls_modules", every=2),
        ]


@register_sites("mmdet.models.dense_heads.clr_head.utils.roi_gather.ROIGather.forward")
class ROIGatherSites(Host):
    """``act`` after the norm of a lane's features."""

    shared = None
    calls = {"forward": ("self.act",)}
    before = {"act": "fc_norm"}
