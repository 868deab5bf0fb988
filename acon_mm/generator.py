"""Meta-ACON's generator in one compiled operator with the activation, where that does what the modules do.

Called one by one, a mean, two linear layers, two norms and a sigmoid of a few values cost more to call than to compute.
"""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .functional import is_exporting
from .kernels import backend_for, compiled
from .layers import InnerConv2d, has_batch_statistics

#: so many samples the compiled layers are made for; matrix products of more are left to PyTorch
FEW_SAMPLES = 16


def all_at_once(module: nn.Module, x: Tensor, channel_dim: int) -> Tensor | None:
    """What a channel-wise :class:`acon_mm.MetaAconC` makes of ``x``; None where it must do that itself.

    It must without compiled kernels, with more than 16 samples, without space to take a mean of, with other norms than
    a batch norm that has running statistics, with dtypes other than that which is computed in, under ``torch.compile``
    and export, and where a module inside has hooks, which want to see it called, or was replaced by another class.

    Shape:
        x ``(N, ..., C, ...)`` with C at ``channel_dim``; the result has the same
    """
    if is_exporting() or torch.compiler.is_compiling() or x.dim() < 3 or not 0 < x.shape[0] <= FEW_SAMPLES:
        return None
    fc1, bn1, fc2, bn2 = layers = module.fc1, module.bn1, module.fc2, module.bn2
    # An adapter around a layer, or a layer of another class, computes something else from the same weight.
    if any(_has_hooks(layer) for layer in layers) or not all(_is_inner(layer) for layer in (fc1, fc2)):
        return None
    parameters = [fc1.weight, fc1.bias, fc2.weight, fc2.bias]
    buffers, from_batch, momentum, eps = [], False, 0.0, 0.0
    if not (isinstance(bn1, nn.Identity) and isinstance(bn2, nn.Identity)):
        if not _is_plain(bn1) or not _is_plain(bn2) or _options(bn1) != _options(bn2):
            return None
        parameters[2:2] = bn1.weight, bn1.bias
        parameters += bn2.weight, bn2.bias
        from_batch, momentum, eps = _options(bn1)
        buffers = [t for norm in (bn1, bn2) for t in (norm.running_mean, norm.running_var, norm.num_batches_tracked)]
        from_batch = from_batch and has_batch_statistics(bn1, x.shape[:2])
    p1, p2 = module.p1, module.p2
    dtype = torch.promote_types(x.dtype, torch.float32)
    if backend_for(x) != "compiled" or any(t.dtype != dtype for t in (p1, p2, *parameters)):
        return None
    return compiled.meta_acon_c(
        x, p1, p2, parameters, buffers, from_batch, momentum, eps, module.beta_scale, channel_dim
    )


def _is_inner(linear: nn.Module) -> bool:
    return type(linear).forward is InnerConv2d.forward


def _is_plain(norm: nn.Module) -> bool:
    # A SyncBatchNorm has a forward of its own.
    plain = isinstance(norm, _BatchNorm) and type(norm).forward is _BatchNorm.forward
    return plain and norm.affine and norm.running_mean is not None and norm.momentum is not None


def _options(norm: _BatchNorm) -> tuple[bool, float, float]:
    return norm.training, norm.momentum, norm.eps


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)
