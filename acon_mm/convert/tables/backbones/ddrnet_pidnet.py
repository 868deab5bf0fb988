"""DDRNet and PIDNet of mmseg: all branches use one ReLU. Most of their blocks ignore the network's ``act_cfg``."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from ...hosts import Host, HostSite, register_sites
from ..common import last_conv, sites_after


@register_sites("mmseg.models.backbones.pidnet.PIDNet.forward")
class PIDNetSites(Host):
    """``stem.3`` and ``stem.5``; ``i_acts.N``, ``p_acts.N`` and ``d_acts.N``, two on each of the three branches."""

    calls = {
        "forward": (
            *("self.i_acts[0]", "self.i_acts[1]"),
            *("self.p_acts[0]", "self.d_acts[0]"),
            *("self.p_acts[1]", "self.d_acts[1]"),
        )
    }

    @classmethod
    def sites(cls, module: Any) -> list[HostSite]:
        return [
            *_in_stem(module),
            *sites_after(map(last_conv, module.i_branch_layers[:2]), "i_acts"),
            *sites_after([module.compression_1, module.compression_2], "p_acts"),
            *sites_after([module.diff_1, module.diff_2], "d_acts"),
        ]


@register_sites("mmseg.models.backbones.ddrnet.DDRNet.forward")
class DDRNetSites(Host):
    """``stem.3`` and ``stem.5``; ``context_acts.N`` and ``spatial_acts.N`` before and after each of two fusions.

    Upstream changes the input of an activation in place after the call. Most activations need their input in the
    backward pass, so the forward is written again without that.
    """

    @classmethod
    def sites(cls, module: Any) -> list[HostSite]:
        context, spatial = map(last_conv, module.context_branch_layers), map(last_conv, module.spatial_branch_layers)
        return [
            *_in_stem(module),
            *sites_after([next(context), module.down_1, next(context), module.down_2[-1]], "context_acts"),
            *sites_after([next(spatial), module.compression_1, next(spatial), module.compression_2], "spatial_acts"),
        ]

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        size = (x.shape[-2] // 8, x.shape[-1] // 8)
        x = self.stem(x)
        context, spatial = self.context_branch_layers[0](x), self.spatial_branch_layers[0](x)
        context, spatial = self._fuse(1, context, spatial, size)
        early = spatial
        context = self.context_branch_layers[1](self.context_acts[1](context))
        spatial = self.spatial_branch_layers[1](self.spatial_acts[1](spatial))
        context, spatial = self._fuse(2, context, spatial, size)
        spatial = self.spatial_branch_layers[2](self.spatial_acts[3](spatial))
        context = self.context_branch_layers[2](self.context_acts[3](context))
        out = spatial + self._resize(self.spp(context), size)
        return (early, out) if self.training else out

    def _fuse(self, number: int, context: Tensor, spatial: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Each branch, plus the other one at its size."""
        first = 2 * (number - 1)
        compressed = getattr(self, f"compression_{number}")(self.context_acts[first](context))
        down = getattr(self, f"down_{number}")(self.spatial_acts[first](spatial))
        return context + down, spatial + self._resize(compressed, size)

    def _resize(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        return F.interpolate(x, size, mode="bilinear", align_corners=self.align_corners)


def _in_stem(module: Any) -> list[HostSite]:
    return [HostSite(f"stem.{i}", last_conv(module.stem[i - 1])) for i in (3, 5)]
