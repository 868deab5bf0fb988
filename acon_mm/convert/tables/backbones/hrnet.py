"""HRNet of mmdet and mmseg: the stem uses one ReLU twice, and each HRModule uses one ReLU for all branches."""

from typing import Any

from ...hosts import Host, HostSite, register_sites
from ..common import last_conv, sites_after


@register_sites("mmdet.models.backbones.hrnet.HRNet.forward", "mmpretrain.models.backbones.hrnet.HRNet.forward")
class HRNetSites(Host):
    """The stem: conv1-norm1-``act1``-conv2-norm2-``act2``."""

    calls = {"forward": ("self.act1", "self.act2")}
    before = {"act1": "conv1", "act2": "conv2"}
    is_backbone = True


@register_sites("mmseg.models.backbones.hrnet.HRNet.forward")
class FreezableHRNetSites(HRNetSites):
    """mmseg's HRNet, which also has ``frozen_stages``."""

    def _freeze_stages(self) -> None:
        super()._freeze_stages()
        if self.frozen_stages >= 0:  # upstream freezes only the convolutions and norms of the stem
            for act in (self.act1, self.act2):
                act.eval().requires_grad_(False)


@register_sites(
    "mmdet.models.backbones.hrnet.HRModule.forward",
    "mmseg.models.backbones.hrnet.HRModule.forward",
    "mmpretrain.models.backbones.hrnet.HRModule.forward",
)
class HRModuleSites(Host):
    """``acts.N`` after the sum of branch N. A module with one branch has no sum and no activation."""

    calls = {"forward": ("self.acts[i]",)}

    @classmethod
    def sites(cls, module: Any) -> list[HostSite]:
        if module.num_branches == 1:
            return []
        return sites_after(map(last_conv, module.branches[: len(module.fuse_layers)]), "acts")
