"""CLRNet, the lane detector of the maintained fork of mmdet."""

from torch import nn

from ...hosts import Host, HostSite


class CLRHeadSites(Host):
    """``cls_modules`` and ``reg_modules`` are lists in which each linear layer is followed by an activation."""

    upstream = ("mmdet.models.dense_heads.clr_head.clr_head.CLRHead.forward",)
    shared = None

    @classmethod
    def sites(cls, module: nn.Module) -> list[HostSite]:
        return [
            HostSite(f"{branch}.{i}", layers[i - 1])
            for branch in ("reg_modules", "cls_modules")
            for layers in (getattr(module, branch),)
            for i in range(1, len(layers), 2)
        ]


class ROIGatherSites(Host):
    """``act`` after the norm of a lane's features."""

    upstream = ("mmdet.models.dense_heads.clr_head.utils.roi_gather.ROIGather.forward",)
    shared = None
    calls = {"forward": ("self.act",)}
    before = {"act": "fc_norm"}
