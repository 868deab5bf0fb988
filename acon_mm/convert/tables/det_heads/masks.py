"""Mask and grid heads of mmdet's two-stage detectors."""

from typing import Any

from ...hosts import Host, HostSite, register_sites
from ..common import sites_after


@register_sites("mmdet.models.roi_heads.mask_heads.coarse_mask_head.CoarseMaskHead.forward")
class CoarseMaskHeadSites(Host):
    """PointRend: ``fc_acts`` after the fully connected layers."""

    calls = {"forward": ("self.act_after(fc)",)}

    @classmethod
    def sites(cls, module: Any) -> list[HostSite]:
        return sites_after(module.fcs, "fc_acts")


@register_sites("mmdet.models.roi_heads.mask_heads.maskiou_head.MaskIoUHead.forward")
class MaskIoUHeadSites(Host):
    """Mask Scoring R-CNN: ``conv_acts`` after the convolutions, ``fc_acts`` after the fully connected layers."""

    calls = {"forward": ("self.act_after(conv)", "self.act_after(fc)")}

    @classmethod
    def sites(cls, module: Any) -> list[HostSite]:
        return sites_after(module.convs, "conv_acts") + sites_after(module.fcs, "fc_acts")


@register_sites("mmdet.models.roi_heads.mask_heads.grid_head.GridHead.forward")
class GridHeadSites(Host):
    """``act`` after norm1. In training, the deconvolution, norm and ``act`` run on the unfused features as well."""

    shared = None
    calls = {"forward": ("self.act",) * 2}
    before = {"act": "norm1"}
