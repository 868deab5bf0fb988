"""CLRNet, the lane detector of the maintained fork of mmdet."""

from torch import nn

from ...hosts import Host, HostSite


class CLRHeadSites(Host):
    """``cls_modules`` and ``reg_modules`` are lists of a linear layer and an activation, in turn."""

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
    """``act`` after the norm of the features of a lane."""

    upstream = ("mmdet.models.dense_heads.clr_head.utils.roi_gather.ROIGather.forward",)
    shared = None
    calls = {"forward": ("self.act",)}
    before = {"act": "fc_norm"}
