"""Layers inside the ACON modules: a convolution that hosts leave alone, and norms that stand a single value."""

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


class InnerConv2d(nn.Module):
    """A 2-D convolution with bias, stride 1 and "same" padding that is not an ``nn.Conv2d``.

    Hosts that initialise by class (``for m in self.modules(): if isinstance(m, nn.Conv2d)``) would overwrite ACON's own
    initialisation otherwise. Its parameters have no values before :meth:`reset_parameters`, which ACONs call in theirs.

    Shape:
        ``(N, in_channels, H, W)`` to ``(N, out_channels, H, W)``; with a kernel of 1x1 also ``(N, in_channels)`` to
        ``(N, out_channels)``, for pooled maps
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 1, groups: int = 1):
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.groups = kernel_size, groups
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.empty(out_channels))

    def reset_parameters(self) -> None:
        """As ``nn.Conv2d`` initialises: uniform within 1 / sqrt(fan_in)."""
        bound = 1 / math.sqrt(self.weight[0].numel())
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 2:
            return F.linear(x, self.weight.flatten(1), self.bias)
        return F.conv2d(x, self.weight, self.bias, padding=self.kernel_size // 2, groups=self.groups)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, groups={self.groups}"


def build_norm(norm_cfg: dict | None, num_channels: int, pooled: bool = False) -> nn.Module:
    """The norm that an mm ``norm_cfg`` asks for; ``None``: no norm.

    Raises:
        ValueError: the norm takes its statistics over space, and is for ``pooled`` maps, which have one value there.
    """
    if norm_cfg is None:
        return nn.Identity()
    norm = build_norm_layer(norm_cfg, num_channels)[1]
    if pooled and isinstance(norm, nn.modules.instancenorm._InstanceNorm):
        raise ValueError(
            f"norm_cfg={dict(norm_cfg)} normalises over space, but Meta-ACON's norms see one value per channel and "
            "sample: use 'BN', 'SyncBN', 'GN', 'LN' or None"
        )
    return norm


def normalize(norm: nn.Module, x: Tensor) -> Tensor:
    """Apply ``norm`` to maps ``x`` of shape ``(N, C, H, W)``, also where a batch norm could not.

    A batch norm in training needs two values per channel. With one (pooled maps at batch size 1) or none (an empty
    batch of RoIs) there are no batch statistics: the running statistics normalise, as they do at test time, and stay as
    they are. A SyncBatchNorm counts the values of all processes. A LayerNorm normalises over the channels.
    """
    if isinstance(norm, nn.LayerNorm):
        return norm(x.movedim(1, -1)).movedim(-1, 1)
    if isinstance(norm, _BatchNorm) and norm.training and not has_batch_statistics(norm, x.shape):
        # Without running statistics: mean 0 and variance 1, where they would have started.
        mean = x.new_zeros(x.shape[1]) if norm.running_mean is None else norm.running_mean
        var = x.new_ones(x.shape[1]) if norm.running_var is None else norm.running_var
        return F.batch_norm(x, mean, var, norm.weight, norm.bias, training=False, eps=norm.eps)
    return norm(x)


def has_batch_statistics(norm: _BatchNorm, shape: torch.Size) -> bool:
    """Whether a norm in training finds two values per channel in maps of a shape; the log tells once if not."""
    values = shape.numel() // shape[1]
    if isinstance(norm, nn.SyncBatchNorm) and dist.is_initialized():
        # Every process must take the same way, or the others wait for it forever: an even share is presumed.
        values = max(values, 1) * dist.get_world_size(norm.process_group)
    if values < 2 and not torch.compiler.is_compiling():
        _log_single_value()
    return values >= 2


@cache
def _log_single_value() -> None:
    print_log(
        "ACON: a batch norm got fewer than 2 values per channel in training (batch size 1?); it normalises by its "
        "running statistics then and leaves them unchanged. norm_cfg=None does without a norm.",
        logger="current",
        level=logging.WARNING,
    )
