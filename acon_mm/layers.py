"""Layers inside the ACON modules: a convolution that hosts leave alone, norms for a single value, and both at once."""

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

from .functional import is_exporting
from .kernels import backend_for, compiled

#: so many pooled maps the compiled layer takes; matrix products of more are left to PyTorch
FEW_SAMPLES = 16


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


def generator_layer(linear: InnerConv2d, norm: nn.Module, x: Tensor, sigmoid_scale: float = 0.0) -> Tensor:
    """``norm(linear(x))`` of pooled maps, and with a ``sigmoid_scale`` that times the sigmoid of it.

    A compiled layer does it at once where it can, and leaves the modules uncalled then, unless they have hooks.

    Shape:
        ``(N, in_channels)`` to ``(N, out_channels)``
    """
    tensors = _compiled_tensors(linear, norm, x)
    if tensors is not None:
        return _compiled_layer(norm, x, tensors, sigmoid_scale)
    y = linear(x)
    if not isinstance(norm, nn.Identity):
        y = normalize(norm, y[:, :, None, None]).flatten(1)
    if sigmoid_scale == 0:
        return y
    gate = torch.sigmoid(y)
    return gate if sigmoid_scale == 1 else sigmoid_scale * gate


def normalize(norm: nn.Module, x: Tensor) -> Tensor:
    """Apply ``norm`` to maps ``x`` of shape ``(N, C, H, W)``, also where a batch norm could not.

    A batch norm in training needs two values per channel. With one (pooled maps at batch size 1) or none (an empty
    batch of RoIs) there are no batch statistics: the running statistics normalise, as they do at test time, and stay as
    they are. A SyncBatchNorm counts the values of all processes. A LayerNorm normalises over the channels.
    """
    if isinstance(norm, nn.LayerNorm):
        return norm(x.movedim(1, -1)).movedim(-1, 1)
    if isinstance(norm, _BatchNorm) and norm.training and not _has_batch_statistics(norm, x):
        # Without running statistics: mean 0 and variance 1, where they would have started.
        mean = x.new_zeros(x.shape[1]) if norm.running_mean is None else norm.running_mean
        var = x.new_ones(x.shape[1]) if norm.running_var is None else norm.running_var
        return F.batch_norm(x, mean, var, norm.weight, norm.bias, training=False, eps=norm.eps)
    return norm(x)


def _compiled_tensors(linear: InnerConv2d, norm: nn.Module, x: Tensor) -> tuple[Tensor, ...] | None:
    """The parameters and buffers that the compiled layer takes; None where it cannot do what the modules do."""
    # What is exported must not be bound to few samples, so that comes first.
    if is_exporting() or not 0 < x.shape[0] <= FEW_SAMPLES or backend_for(x) != "compiled":
        return None
    if _has_hooks(linear) or _has_hooks(norm):
        return None
    tensors = linear.weight, linear.bias
    if not isinstance(norm, nn.Identity):
        # Not a SyncBatchNorm, which has a forward of its own.
        if not isinstance(norm, _BatchNorm) or type(norm).forward is not _BatchNorm.forward or norm.momentum is None:
            return None
        tensors += norm.weight, norm.bias, norm.running_mean, norm.running_var
    fits = x.dtype in compiled.LAYER_DTYPES and all(
        t is not None and t.dtype == x.dtype and t.device == x.device for t in tensors
    )
    return tensors if fits else None


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


def _compiled_layer(norm: nn.Module, x: Tensor, tensors: tuple[Tensor, ...], sigmoid_scale: float) -> Tensor:
    if len(tensors) == 2:
        return compiled.generator_layer(x, *tensors, sigmoid_scale=sigmoid_scale)[0]
    from_batch = norm.training and _has_batch_statistics(norm, x)
    y, _, mean, _, variance = compiled.generator_layer(x, *tensors, from_batch, norm.eps, sigmoid_scale)
    if from_batch:
        *_, running_mean, running_var = tensors
        norm.num_batches_tracked.add_(1)
        running_mean.lerp_(mean, norm.momentum)
        running_var.lerp_(variance, norm.momentum)
    return y


def _has_batch_statistics(norm: _BatchNorm, x: Tensor) -> bool:
    """Whether a norm in training finds two values per channel; once there was a case without, the log tells."""
    values = x.numel() // x.shape[1]
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
