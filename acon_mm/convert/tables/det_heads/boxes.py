"""Box heads of mmdet's two-stage detectors. Their fully connected layers take inputs of shape (RoIs, channels)."""

from typing import Any

from ....compat import strict_zip
from ...hosts import Host, HostSite, register_sites
from ..common import sites_after


@register_sites("mmdet.models.roi_heads.bbox_heads.convfc_bbox_head.ConvFCBBoxHead.forward")
class ConvFCBBoxHeadSites(Host):
    """``shared_acts``, ``cls_acts`` and ``reg_acts`` after the fully connected layers."""

    calls = {"forward": ("self.act_after(fc)",) * 3}

    @classmethod
    def sites(cls, module: Any) -> list[HostSite]:
        fcs = {"shared_acts": module.shared_fcs, "cls_acts": module.cls_fcs, "reg_acts": module.reg_fcs}
        return [site for acts, layers in fcs.items() for site in sites_after(layers, acts)]


@register_sites("mmdet.models.roi_heads.bbox_heads.scnet_bbox_head.SCNetBBoxHead.forward")
class SCNetBBoxHeadSites(ConvFCBBoxHeadSites):
    """The same sites, in two methods."""

    calls = {"_forward_shared": ("self.act_after(fc)",), "_forward_cls_reg": ("self.act_after(fc)",) * 2}


@register_sites("mmdet.models.roi_heads.bbox_heads.multi_instance_bbox_head.MultiInstanceBBoxHead.forward")
class MultiInstanceBBoxHeadSites(Host):
    """CrowdDet: ``shared_acts``; ``cls_acts.K`` and ``reg_acts.K`` of the K-th prediction; ``ref_act`` to refine."""

    calls = {"forward": (*("self.act_after(fc)",) * 3, "self.ref_act")}

    @classmethod
    def sites(cls, module: Any) -> list[HostSite]:
        sites = sites_after(module.shared_fcs, "shared_acts")
        for k, (cls_fcs, reg_fcs) in enumerate(strict_zip(module.cls_fcs, module.reg_fcs)):
            sites += sites_after(cls_fcs, f"cls_acts.{k}") + sites_after(reg_fcs, f"reg_acts.{k}")
        return [*sites, HostSite("ref_act", module.shared_fcs_ref)] if module.with_refine else sites


@register_sites("mmdet.models.roi_heads.bbox_heads.double_bbox_head.DoubleConvFCBBoxHead.forward")
class DoubleConvFCBBoxHeadSites(Host):
    """``fc_acts`` after the fully connected layers. The branch of convolutions consists of ResNet blocks."""

    calls = {"forward": ("self.act_after(fc)",)}

    @classmethod
    def sites(cls, module: Any) -> list[HostSite]:
        return sites_after(module.fc_branch, "fc_acts")


@register_sites("mmdet.models.roi_heads.bbox_heads.sabl_head.SABLHead.forward")
class SABLHeadSites(Host):
    """``cls_acts``, ``reg_offset_acts`` and ``reg_cls_acts`` after the fully connected layers; ``upsample_acts``."""

    calls = {
        "cls_forward": ("self.act_after(fc)",),
        "side_aware_feature_extractor": ("self.upsample_acts[0]", "self.upsample_acts[1]"),
        "reg_pred": ("self.act_after(fc)",) * 2,
    }

    @classmethod
    def sites(cls, module: Any) -> list[HostSite]:
        upsamples = [module.upsample_x, module.upsample_y] if module.reg_feat_up_ratio > 1 else []
        return [
            *sites_after(module.cls_fcs, "cls_acts"),
            *sites_after(upsamples, "upsample_acts"),
            *sites_after(module.reg_offset_fcs, "reg_offset_acts"),
            *sites_after(module.reg_cls_fcs, "reg_cls_acts"),
        ]
