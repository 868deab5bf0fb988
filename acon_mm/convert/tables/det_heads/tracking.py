"""Embedding heads of mmdet's trackers, and the layer of its re-identification heads."""

from typing import Any

from ...hosts import Host, HostSite
from ..common import sites_after


class QuasiDenseEmbedHeadSites(Host):
    """``fc_acts`` after the fully connected layers."""

    upstream = ("mmdet.models.tracking_heads.quasi_dense_embed_head.QuasiDenseEmbedHead.forward",)
    calls = {"forward": ("self.act_after(fc)",)}

    @classmethod
    def sites(cls, module: Any) -> list[HostSite]:
        return sites_after(module.fcs, "fc_acts")


class RoIEmbedHeadSites(QuasiDenseEmbedHeadSites):
    """The same sites, in another method."""

    upstream = ("mmdet.models.tracking_heads.roi_embed_head.RoIEmbedHead.forward",)
    calls = {"extract_feat": ("self.act_after(fc)",)}


class FcModuleSites(Host):
    """``activate`` after the fully connected layer and its norm, if the module has one."""

    upstream = ("mmdet.models.reid.fc_module.FcModule.forward",)
    shared = "activate"

    @classmethod
    def sites(cls, module: Any) -> list[HostSite]:
        return [HostSite("activate", module.fc)] if module.with_activation else []
