"""Detection heads of mmdet that share an activation or call a functional one."""

from torch import Tensor, nn

from ...hosts import Host, HostSite


class RPNHeadSites(Host):
    """``rpn_act`` after the one convolution.

    With ``num_convs > 1`` the convolutions are ConvModules with activations of their own, and upstream activates once
    more after the last, which ReLU stands (it is idempotent) and ACON does not: the second is dropped.
    """

    upstream = ("mmdet.models.dense_heads.rpn_head.RPNHead.forward_single",)
    shared = None

    @classmethod
    def sites(cls, module: nn.Module) -> list[HostSite]:
        if module.num_convs > 1:
            last = module.num_convs - 1
            return [HostSite(f"rpn_conv.{last}.activate", module.rpn_conv[last])]
        return [HostSite("rpn_act", module.rpn_conv)]

    def forward_single(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.rpn_conv(x)
        if self.num_convs == 1:
            x = self.rpn_act(x)
        return self.rpn_cls(x), self.rpn_reg(x)


class ConvFCBBoxHeadSites(Host):
    """``shared_acts``, ``cls_acts`` and ``reg_acts`` after the fully connected layers; inputs are (RoIs, channels)."""

    upstream = ("mmdet.models.roi_heads.bbox_heads.convfc_bbox_head.ConvFCBBoxHead.forward",)
    calls = {"forward": ("self.act_after(fc)",) * 3}

    @classmethod
    def sites(cls, module: nn.Module) -> list[HostSite]:
        return [
            HostSite(f"{branch}_acts.{i}", fc)
            for branch in ("shared", "cls", "reg")
            for i, fc in enumerate(getattr(module, f"{branch}_fcs"))
        ]


class FCNMaskHeadSites(Host):
    """``relu`` after the upsampling, which upstream calls only after a deconvolution."""

    upstream = ("mmdet.models.roi_heads.mask_heads.fcn_mask_head.FCNMaskHead.forward",)

    @classmethod
    def sites(cls, module: nn.Module) -> list[HostSite]:
        return [HostSite("relu", module.upsample)] if module.upsample_method == "deconv" else []


class RetinaHeadSites(Host):
    """No site of its own: the attribute ``relu`` is never called. (The activations are those of its ConvModules.)"""

    upstream = ("mmdet.models.dense_heads.retina_head.RetinaHead.forward_single",)

    @classmethod
    def sites(cls, module: nn.Module) -> list[HostSite]:
        return []
