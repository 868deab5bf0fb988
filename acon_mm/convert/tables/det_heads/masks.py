"""Mask and grid heads of mmdet's two-stage detectors."""

from typing import Any

from ...hosts import Host, HostSite
from ..common import sites_after


class FCNMaskHeadSites(Host):
    """``relu`` after the upsampling. Upstream calls it only after a deconvolution."""

    upstream = tuple(
        f"mmdet.models.roi_heads.mask_heads.{method}.forward"
        for method in (
            "fcn_mask_head.FCNMaskHead",
            "htc_mask_head.HTCMaskHead",
            "dynamic_mask_head.DynamicMaskHead",
        )
    )

    @classmethod
    def sites(cls, module: Any) -> list[HostSite]:
        return [HostSite("relu", module.upsample)] if module.upsample_method == "deconv" else []


class CoarseMaskHeadSites(Host):
    """PointRend: ``fc_acts`` after the fully connected layers."""

    upstream = ("mmdet.models.roi_heads.mask_heads.coarse_mask_head.CoarseMaskHead.forward",)
    calls = {"forward": ("self.act_after(fc)",)}

    @classmethod
    def sites(cls, module: Any) -> list[HostSite]:
        return sites_after(module.fcs, "fc_acts")


class MaskIoUHeadSites(Host):
    """Mask Scoring R-CNN: ``conv_acts`` after the convolutions, ``fc_acts`` after the fully connected layers."""

    upstream = ("mmdet.models.roi_heads.mask_heads.maskiou_head.MaskIoUHead.forward",)
    calls = {"forward": ("self.act_after(conv)", "self.act_after(fc)")}

    @classmethod
    def sites(cls, module: Any) -> list[HostSite]:
        return sites_after(module.convs, "conv_acts") + sites_after(module.fcs, "fc_acts")


class GridHeadSites(Host):
    """``act`` after norm1. In training, the deconvolution, norm and ``act`` run on the unfused features as well."""

    upstream = ("mmdet.models.roi_heads.mask_heads.grid_head.GridHead.forward",)
    shared = None
    calls = {"forward": ("self.act",) * 2}
    before = {"act": "norm1"}


class SimplifiedBasicBlockSites(Host):
    """SCNet: ``relu`` after the first convolution, the only activation."""

    upstream = ("mmdet.models.layers.res_layer.SimplifiedBasicBlock.forward",)
    before = {"relu": "conv1"}
