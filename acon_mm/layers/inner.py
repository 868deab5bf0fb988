"""The layers inside the ACON modules: a convolution, and norms that also take a single value per channel."""

from __future__ import annotations

import logging
import math
from functools import cache

import torch
import torch.distributed as dist
from mmcv.cnn import build_norm_layer
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from ..compat import is_compiling


class InnerConv2d(nn.Module):
    """A 2-D convolution with bias, stride 1 and "same" padding. It is not an ``nn.Conv2d``.

    Models that initialize by class (``for m in self.modules(): if isinstance(m, nn.Conv2d)``) would overwrite the
    initial values of an ``nn.Conv2d``. The parameters have no values before :meth:`reset_parameters`, which an ACON
    calls in its own.

    Shape:
        ``(N, in_channels, H, W)`` to ``(N, out_channels, H, W)``; for pooled maps, with a kernel of 1x1, also
        ``(N, in_channels)`` to ``(N, out_channels)``. The computation is in the dtype of the input.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 1, depthwise: bool = False):
        super().__init__()
        self.kernel_size, self.depthwise = kernel_size, depthwise
        inputs = 1 if depthwise else in_channels
        self.weight = nn.Parameter(torch.empty(out_channels, inputs, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.empty(out_channels))

    def reset_parameters(self) -> None:
        """As ``nn.Conv2d`` initializes: uniform within 1 / sqrt(fan_in)."""
        bound = 1 / math.sqrt(self.weight.shape[1:].numel())
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        if x.dim() == 2:
            return F.linear(x, weight[:, :, 0, 0], bias)
        return F.conv2d(x, weight, bias, padding=self.kernel_size // 2, groups=len(weight) if self.depthwise else 1)

    def extra_repr(self) -> str:
        outputs, inputs = self.weight.shape[:2]
        groups = outputs if self.depthwise else 1
        return f"{inputs * groups}, {outputs}, kernel_size={self.kernel_size}, groups={groups}"


def build_norm(norm_cfg: dict | None, num_channels: int, where: str, pooled: bool = False) -> nn.Module:
    """The norm of an OpenMMLab ``norm_cfg`` in the activation ``where``; an ``nn.Identity`` where that is ``None``.

    Raises:
        ValueError: there is no such norm for so many channels, or it is for ``pooled`` maps, which have one value over
            space, but normalizes over space.
    """
    if norm_cfg is None:
        return nn.Identity()
    groups = next(g for g in (8, 4, 2, 1) if num_channels % g == 0 and g < max(num_channels, 2))
    way_out = f"dict(type='BN'), dict(type='GN', num_groups={groups}) or None"
    try:
        norm = build_norm_layer(norm_cfg, num_channels)[1]
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        reason = {KeyError: "there is no such norm", AssertionError: "an option is missing"}.get(type(error), error)
        given = norm_cfg.get("num_groups") if isinstance(norm_cfg, dict) else None
        if isinstance(given, int) and given > 0 and num_channels % given:
            reason = f"{given} groups do not divide them"
        raise ValueError(
            f"{where}: norm_cfg={norm_cfg!r} is no config of a norm for {num_channels} channels: {reason}. "
            f"Use {way_out}"
        ) from error
    if pooled and isinstance(norm, nn.modules.instancenorm._InstanceNorm):
        raise ValueError(
            f"{where}: norm_cfg={dict(norm_cfg)} normalizes over space, but the norms of Meta-ACON get one value per "
            f"sample and channel: use {way_out}"
        )
    if pooled and isinstance(norm, nn.GroupNorm) and norm.num_groups == num_channels:
        raise ValueError(
            f"{where}: norm_cfg={dict(norm_cfg)} has a group for each of the {num_channels} channels. The norms of "
            f"Meta-ACON get one value per channel, and a norm of one value is 0: use {way_out}"
        )
    return norm


def reset_norm(norm: nn.Module) -> None:
    """Set a norm of :func:`build_norm` to its initial values."""
    if not isinstance(norm, nn.Identity):
        norm.reset_parameters()  # type: ignore[operator]


def normalize(norm: nn.Module, x: Tensor) -> Tensor:
    """Apply ``norm`` to maps ``x`` of shape ``(N, C, H, W)``.

    A batch norm in training needs two values per channel. There is one in pooled maps at batch size 1, and none in an
    empty batch of RoIs. The norm then uses its running statistics, as in evaluation, and leaves them unchanged. A
    SyncBatchNorm counts the values of all processes. A LayerNorm normalizes over the channels.
    """
    if isinstance(norm, nn.LayerNorm):
        return norm(x.movedim(1, -1)).movedim(-1, 1)
    if isinstance(norm, _BatchNorm) and norm.training and not has_batch_statistics(norm, x.shape):
        # Without running statistics: their initial values, mean 0 and variance 1.
        mean = x.new_zeros(x.shape[1]) if norm.running_mean is None else norm.running_mean
        var = x.new_ones(x.shape[1]) if norm.running_var is None else norm.running_var
        return F.batch_norm(x, mean, var, norm.weight, norm.bias, training=False, eps=norm.eps)
    return norm(x)


def has_batch_statistics(norm: _BatchNorm, shape: torch.Size) -> bool:
    """Whether maps of this shape have the two values per channel that a norm needs in training; logged once if not."""
    values = shape.numel() // shape[1]
    if isinstance(norm, nn.SyncBatchNorm) and dist.is_initialized():
        # All processes must decide alike, or some would wait forever. So each assumes that all have as many values.
        values = max(values, 1) * dist.get_world_size(norm.process_group)
    if values < 2 and not is_compiling():
        _log_single_value()
    return values >= 2


@cache
def _log_single_value() -> None:
    print_log(
        "ACON: a batch norm got fewer than 2 values per channel in training (batch size 1?). It then uses its running "
        "statistics and leaves them unchanged. norm_cfg=None removes the norms.",
        logger="current",
        level=logging.WARNING,
    )
