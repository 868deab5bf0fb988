"""ACON-FReLU (arXiv 2009.04759, table 1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from mmengine.registry import MODELS
from torch import Tensor, nn

from ..ops import functional as F
from ..registering import register
from .base import Acon
from .inner import InnerConv2d, build_norm, normalize, reset_norm


@register(MODELS)
class AconFReLU(Acon):
    r"""ACON-FReLU: ACON of a value and its spatial condition.

    .. math::
        f(x) = BN_2((x - \eta(x))\,\sigma(x - \eta(x)) + \eta(x)), \quad \eta(x) = BN_1(\mathrm{depthwise}_{3x3}(x))

    (Table 1, and the authors' TFNet, which has :math:`BN_2`.) The 3x3 window is over the last two dimensions of space.
    A missing dimension counts as size 1. A third one (depth) counts as part of the batch.

    Args:
        num_channels, channel_dim, batch_first, inplace: see :class:`Acon`.
        norm_cfg: the config of both norms; ``None``: no norms.
        out_norm: whether there is :math:`BN_2`.
        init: ``'paper'``: the weights of the window are drawn from N(0, 0.01) and its bias is 0.

    Shape:
        as in :class:`AconA`
    """

    inits = ("paper",)

    def __init__(
        self,
        num_channels: int | None = None,
        *,
        norm_cfg: dict | None = dict(type="BN"),  # noqa: B006 - never changed
        out_norm: bool = True,
        init: str = "paper",
        **kwargs: Any,
    ):
        self.norm_cfg, self.out_norm = norm_cfg, out_norm
        super().__init__(num_channels, init=init, **kwargs)

    def _create(self, num_channels: int) -> None:
        # The names are the authors'.
        self.conv_frelu = InnerConv2d(num_channels, num_channels, kernel_size=3, depthwise=True)
        self.bn1 = build_norm(self.norm_cfg, num_channels, self._label())
        self.bn2 = build_norm(self.norm_cfg if self.out_norm else None, num_channels, self._label())

    def reset_parameters(self) -> None:
        nn.init.normal_(self.conv_frelu.weight, std=0.01)
        nn.init.zeros_(self.conv_frelu.bias)
        for norm in (self.bn1, self.bn2):
            reset_norm(norm)

    def _follow_parameters(self) -> None:
        self.num_channels = len(self.conv_frelu.weight)

    def _activate(self, x: Tensor, channel_dim: int, inplace: bool) -> Tensor:
        if channel_dim != 1 and x.dim() == 3 and self._has_batch_second(x):
            return self._activate(x.permute(1, 2, 0), 1, False).permute(2, 0, 1)
        maps, restore = _as_maps(x.to(self.conv_frelu.weight.dtype), channel_dim)
        eta = normalize(self.bn1, self.conv_frelu(maps))
        return restore(normalize(self.bn2, F.acon_frelu(maps, eta)).to(x.dtype))


def _as_maps(x: Tensor, channel_dim: int) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """``x`` as ``(N', C, H, W)``, and a function that gives a result the shape of ``x``.

    It reshapes only what it must: behind a reshape, batch norm of PyTorch 2.13 has wrong gradients for a batch of 1
    whose gradient is channels last.
    """
    maps = x.movedim(channel_dim, 1)
    missing = (2,) * (4 - x.dim())
    for dim in missing:
        maps = maps.unsqueeze(dim)
    depth = tuple(range(2, x.dim() - 2))
    front = tuple(range(1, 1 + len(depth)))
    sizes = tuple(maps.shape[dim] for dim in (0, *depth))
    batched = maps.movedim(depth, front)
    single = bool(depth) and not F.is_exporting() and math.prod(sizes) == 1
    maps = batched.squeeze(front) if single else batched.flatten(0, len(depth))

    def restore(y: Tensor) -> Tensor:
        if depth:
            y = y[(slice(None), *(None for _ in depth))] if single else y.unflatten(0, sizes)
            y = y.movedim(front, depth)
        for dim in missing:
            y = y.squeeze(dim)
        return y.movedim(1, channel_dim)

    return maps, restore
