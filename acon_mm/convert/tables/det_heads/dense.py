"""Dense heads of mmdet: their activations outside of ConvModules."""

from typing import Any

from torch import nn

from ...hosts import Host, HostSite, register_sites

_DISTANCE = "keeps the distance from a point to an edge of its box from being negative"


@register_sites("mmdet.models.dense_heads.rpn_head.RPNHead.forward_single")
class RPNHeadSites(Host):
    """``rpn_act`` after the convolution.

    With ``num_convs > 1`` the convolutions are ConvModules with activations of their own, and upstream activates once
    more after the last. A second ReLU changes nothing, but a second ACON does, so it is left out.
    """

    shared = None
    calls = {"forward_single": ("self.act_after_convs()",)}

    @classmethod
    def sites(cls, module: Any) -> list[HostSite]:
        if module.num_convs > 1:
            last = module.num_convs - 1
            return [HostSite(f"rpn_conv.{last}.activate", module.rpn_conv[last])]
        return [HostSite("rpn_act", module.rpn_conv)]

    def act_after_convs(self) -> nn.Module:
        return nn.Identity() if self.num_convs > 1 else self.rpn_act


@register_sites("mmdet.models.dense_heads.ga_rpn_head.GARPNHead.forward_single")
class GARPNHeadSites(Host):
    """``rpn_act`` after the convolution; ``relu`` is never called."""

    calls = {"forward_single": ("self.rpn_act",)}
    before = {"rpn_act": "rpn_conv"}


@register_sites("mmdet.models.dense_heads.reppoints_head.RepPointsHead.forward_single")
class RepPointsHeadSites(Host):
    """``pts_init_act``, ``cls_act`` and ``pts_refine_act`` after the three convolutions."""

    calls = {"forward_single": ("self.pts_init_act", "self.cls_act", "self.pts_refine_act")}
    before = {
        "pts_init_act": "reppoints_pts_init_conv",
        "cls_act": "reppoints_cls_conv",
        "pts_refine_act": "reppoints_pts_refine_conv",
    }


@register_sites("mmdet.models.dense_heads.vfnet_head.VFNetHead.forward_single")
class VFNetHeadSites(Host):
    """``reg_refine_act`` and ``cls_act`` after the two deformable convolutions."""

    calls = {"forward_single": ("self.reg_refine_act", "self.cls_act")}
    before = {"reg_refine_act": "vfnet_reg_refine_dconv", "cls_act": "vfnet_cls_dconv"}


@register_sites("mmdet.models.dense_heads.atss_vlfusion_head.DyConv.forward")
class DyConvSites(Host):
    """GLIP: ``relu`` after the fusion of the levels, unless it is a dynamic ReLU, which contains an activation."""

    shared = None

    @classmethod
    def sites(cls, module: Any) -> list[HostSite]:
        return [] if hasattr(module.relu, "fc") else [HostSite("relu", module.dyconvs[0].conv)]


@register_sites("mmdet.models.dense_heads.fsaf_head.FSAFHead.forward_single")
class FSAFHeadSites(Host):
    """A RetinaHead that calls ``relu``, but on distances."""

    @classmethod
    def kept(cls, module: Any) -> dict[str, str]:
        return {"relu": _DISTANCE}


@register_sites(
    *(
        f"mmdet.models.dense_heads.{method}.forward_single"
        for method in (
            "fcos_head.FCOSHead",
            "condinst_head.CondInstBboxHead",
            "centernet_update_head.CenterNetUpdateHead",
            "autoassign_head.AutoAssignHead",
        )
    )
)
class PointDistanceSites(Host):
    """FCOS and similar heads keep the distances that they predict from being negative."""

    shared = None

    @classmethod
    def kept(cls, module: Any) -> dict[str, str]:
        return {"bbox_pred.clamp(min=0)": _DISTANCE}


_DYNAMIC = "inside a dynamic convolution: its weights, and so its channels, belong to one instance"


@register_sites("mmdet.models.dense_heads.condinst_head.CondInstMaskHead.forward_single")
class CondInstMaskHeadSites(Host):
    """The convolutions that make the masks have weights that the box head predicts."""

    shared = None

    @classmethod
    def kept(cls, module: Any) -> dict[str, str]:
        return {"F.relu(x)": _DYNAMIC}


@register_sites("mmdet.models.dense_heads.rtmdet_ins_head.RTMDetInsHead.forward")
class RTMDetInsHeadSites(CondInstMaskHeadSites):
    """As in CondInst."""


@register_sites("mmdet.models.dense_heads.rtmdet_ins_head.RTMDetInsSepBNHead.forward")
class RTMDetInsSepBNHeadSites(CondInstMaskHeadSites):
    """As in CondInst; and the distances of points."""

    @classmethod
    def kept(cls, module: Any) -> dict[str, str]:
        return {**super().kept(module), "F.relu(self.rtm_reg[idx](reg_feat))": _DISTANCE}
