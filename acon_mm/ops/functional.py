"""The ACON activations as functions (arXiv 2009.04759).

The input ``x`` has any rank, the batch first, and the channels at ``channel_dim``. A parameter has one value per
channel, ``(C,)``. It may also have one per sample and channel, ``(N, C)``, or one per sample, ``(N, 1)``. The result
has the shape and dtype of ``x``. Only ``x`` and the parameters are kept for backward. With ``inplace=True``, ``x`` may
be overwritten where a batch norm made it, which is then one operator with the activation (:mod:`acon_mm.ops.memory`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import compat
from . import reference
from .arguments import check_arguments, check_input
from .backends import fuses

_acon_c, _acon_c_ = torch.ops.acon_mm.acon_c.default, torch.ops.acon_mm.acon_c_.default


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


class _AconCPixel(torch.autograd.Function):
    """ACON-C with ``beta = scale * sigmoid(x)``. Backward computes beta again, so only ``x`` is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p1: Tensor, p2: Tensor, channel_dim: int, scale: float) -> Tensor:
        ctx.save_for_backward(x, p1, p2)
        ctx.channel_dim, ctx.scale = channel_dim, scale
        return reference.forward(x, p1, p2, scale * _wide(x).sigmoid(), channel_dim)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, p1, p2 = ctx.saved_tensors
        wide = _wide(x)
        gate = wide.sigmoid()
        of_x = ctx.needs_input_grad[0]
        mask = (of_x, *ctx.needs_input_grad[1:3], of_x)
        grad_x, grad_p1, grad_p2, grad_beta = reference.backward(
            grad_y, wide, p1, p2, ctx.scale * gate, ctx.channel_dim, mask
        )
        if grad_x is not None and grad_beta is not None:
            # In float16 an infinity would become NaN where a layer before multiplies it by 0.
            limit = torch.finfo(x.dtype).max
            grad_x = grad_x + (grad_beta * ctx.scale * gate * (1 - gate)).clamp(-limit, limit)
        return None if grad_x is None else grad_x.to(x.dtype), grad_p1, grad_p2, None, None


def acon_a(x: Tensor, beta: Tensor, channel_dim: int = 1, inplace: bool = False) -> Tensor:
    r"""ACON-A, which is Swish with a learned beta: :math:`x\,\sigma(\beta x)` (section 3.2).

    Raises:
        IndexError, RuntimeError: as :func:`acon_c`.
    """
    return acon_c(x, torch.ones_like(beta), torch.zeros_like(beta), beta, channel_dim, inplace)


def acon_b(x: Tensor, p: Tensor, beta: Tensor, channel_dim: int = 1, inplace: bool = False) -> Tensor:
    r"""ACON-B: :math:`(1-p)\,x\,\sigma(\beta (1-p)\,x) + p\,x` (section 3.2).

    Raises:
        IndexError, RuntimeError: as :func:`acon_c`.
    """
    return acon_c(x, torch.ones_like(p), p, beta, channel_dim, inplace)


def acon_c(x: Tensor, p1: Tensor, p2: Tensor, beta: Tensor, channel_dim: int = 1, inplace: bool = False) -> Tensor:
    r"""ACON-C: :math:`(p_1 - p_2)\,x\,\sigma(\beta (p_1 - p_2)\,x) + p_2\,x` (equation 7).

    Raises:
        IndexError: ``channel_dim`` is the batch, or not a dimension of ``x``.
        RuntimeError: the shape of a parameter is not ``(C,)``, ``(N, C)`` or ``(N, 1)``, it is on another device than
            ``x``, or a dtype is not a floating one.
    """
    if is_exporting():
        check_arguments(x, p1, p2, beta, channel_dim)
        return reference.forward_composed(x, p1, p2, beta, channel_dim)
    return (_acon_c_ if inplace else _acon_c)(x, p1, p2, beta, channel_dim)


def acon_c_pixel(x: Tensor, p1: Tensor, p2: Tensor, channel_dim: int = 1, scale: float = 1.0) -> Tensor:
    r"""ACON-C with one beta per element, :math:`\beta = k\,\sigma(x)`: the pixel-wise Meta-ACON (section 3.3).

    ``scale`` is :math:`k`, which is 1 in the paper.

    Raises:
        IndexError, RuntimeError: as :func:`acon_c`.
    """
    channel_dim = check_arguments(x, p1, p2, p2, channel_dim)
    if is_exporting():
        return reference.forward_composed(x, p1, p2, scale * _wide(x).sigmoid(), channel_dim)
    return _AconCPixel.apply(x, p1, p2, channel_dim, scale)


def acon_frelu(x: Tensor, eta_b: Tensor) -> Tensor:
    r"""ACON-FReLU: ACON of :math:`\eta_a = x` and a spatial condition :math:`\eta_b`, with :math:`\beta = 1`.

    .. math::
        (x - \eta_b)\,\sigma(x - \eta_b) + \eta_b

    (Table 1, row FReLU.) ``eta_b`` has the shape of ``x``.
    """
    return torch.nn.functional.silu(x - eta_b) + eta_b


def input_and_mean(x: Tensor, channel_dim: int = 1) -> tuple[Tensor, Tensor]:
    """``x`` and its mean over space, ``(N, C)``, in float32 or wider, which is the input of Meta-ACON's generator.

    Use the returned ``x`` in place of yours: backward can then add the gradient of the mean to that of ``x`` in place,
    without another tensor of its size.

    Raises:
        IndexError: ``channel_dim`` is the batch, or not a dimension of ``x``.
        RuntimeError: the dtype of ``x`` is not a floating one.
    """
    # Under torch.compile, an operator must not return its input, and the compiler fuses the addition itself.
    without_operator = x.dim() == 2 or is_exporting() or compat.is_compiling()
    if not without_operator and fuses(x.device.type):
        return torch.ops.acon_mm.input_and_mean.default(x, channel_dim)
    check_input(x, channel_dim)
    return x, reference.spatial_mean(x, channel_dim)


def is_exporting() -> bool:
    """Whether only standard operators may be used: in ``torch.jit.trace``, ``torch.export`` and ONNX export."""
    return torch.jit.is_tracing() or compat.is_exporting()
