"""Embedding heads of mmdet's trackers, and the layer of its re-identification heads."""

from typing import Any

from ...hosts import Host, HostSite, register_sites
from ..common import sites_after


@register_sites("mmdet.models.tracking_heads.quasi_dense_embed_head.QuasiDenseEmbedHead.forward")
class QuasiDenseEmbedHeadSites(Host):
    """``fc_acts`` after the fully connected layers."""

    calls = {"forward": ("self.act_after(fc)",)}

    @classmethod
    def sites(cls, module: Any) -> list[HostSite]:
        return sites_after(module.fcs, "fc_acts")


@register_sites("mmdet.models.tracking_heads.roi_embed_head.RoIEmbedHead.forward")
class RoIEmbedHeadSites(QuasiDenseEmbedHeadSites):
    """The same sites, in another method."""

    calls = {"extract_feat": ("self.act_after(fc)",)}
