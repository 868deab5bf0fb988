"""FPN and its variants, of mmdet and mmseg: their activations outside of ConvModules.

By default the ``act_cfg`` of an FPN is None: no activations. An ``act_cfg`` adds an activation after every convolution.
"""

from typing import Any

from torch import nn

from ...hosts import Host, HostSite, register_sites


@register_sites(
    "mmdet.models.necks.fpn.FPN.forward",
    "mmdet.models.necks.fpn_dropblock.FPN_DropBlock.forward",
    "mmdet.models.necks.pafpn.PAFPN.forward",
    "mmdet.models.necks.clrnet_fpn.CLRFPN.forward",  # in the maintained fork
    "mmseg.models.necks.fpn.FPN.forward",
)
class FPNSites(Host):
    """``extra_acts`` between the extra convolutions (``relu_before_extra_convs=True``).

    With ``act_cfg`` an extra convolution has an activation of its own, and upstream activates once more after it. A
    second ReLU changes nothing, but a second ACON does, so it is left out.
    """

    shared = None
    calls = {"forward": ("self.act_after(self.fpn_convs[i - 1])",)}

    @classmethod
    def sites(cls, module: Any) -> list[HostSite]:
        if not (module.add_extra_convs and module.relu_before_extra_convs):
            return []
        first = len(module.lateral_convs)
        return [
            HostSite(f"fpn_convs.{first + i}.activate" if conv.with_activation else f"extra_acts.{i}", conv)
            for i, conv in enumerate(module.fpn_convs[first:-1])
        ]

    def act_after(self, layer: nn.Module) -> nn.Module:
        return nn.Identity() if layer.with_activation else super().act_after(layer)


@register_sites("mmdet.models.necks.rfp.RFP.forward")
class RFPSites(FPNSites):
    """It has no sites of its own. It calls FPN's forward by ``super()``, so a rewritten forward would not run."""

    calls = {}

    @classmethod
    def sites(cls, module: Any) -> list[HostSite]:
        if super().sites(module):
            raise ValueError("RFP with relu_before_extra_convs=True cannot be converted: set it to False")
        return []
