"""FPN and its variants, of mmdet and mmseg: their activations outside of ConvModules.

By default the ``act_cfg`` of an FPN is None: no activations. An ``act_cfg`` adds an activation after every convolution.
"""

from typing import Any, ClassVar

from torch import nn

from ...hosts import Host, HostSite
from ..common import sites_after


class FPNSites(Host):
    """``extra_acts`` between the extra convolutions (``relu_before_extra_convs=True``).

    With ``act_cfg`` an extra convolution has an activation of its own, and upstream activates once more after it. A
    second ReLU changes nothing, but a second ACON does, so it is left out.
    """

    upstream: ClassVar[tuple[str, ...]] = (
        "mmdet.models.necks.fpn.FPN.forward",
        "mmdet.models.necks.fpn_dropblock.FPN_DropBlock.forward",
        "mmdet.models.necks.pafpn.PAFPN.forward",
        "mmdet.models.necks.clrnet_fpn.CLRFPN.forward",  # in the maintained fork
        "mmseg.models.necks.fpn.FPN.forward",
    )
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


class RFPSites(FPNSites):
    """It has no sites of its own. It calls FPN's forward by ``super()``, so a rewritten forward would not run."""

    upstream = ("mmdet.models.necks.rfp.RFP.forward",)
    calls = {}

    @classmethod
    def sites(cls, module: Any) -> list[HostSite]:
        if super().sites(module):
            raise ValueError("RFP with relu_before_extra_convs=True cannot be converted: set it to False")
        return []


class RFPASPPSites(Host):
    """``acts`` after the convolutions between two passes of a recursive feature pyramid."""

    upstream = ("mmdet.models.necks.rfp.ASPP.forward",)
    shared = None
    calls = {"forward": ("self.acts[aspp_idx]",)}

    @classmethod
    def sites(cls, module: Any) -> list[HostSite]:
        return sites_after(module.aspp, "acts")


class DeadReLUSites(Host):
    """``relu`` is never called. All activations are in ConvModules."""

    upstream = (
        "mmdet.models.necks.fpg.FPG.forward",
        "mmdet.models.necks.fpn_carafe.FPN_CARAFE.forward",
    )
