r"""ACON-C in plain PyTorch: the formula that every other implementation is tested against.

With :math:`d = (p_1 - p_2)\,x`, :math:`z = \beta d`, :math:`s = \sigma(z)` and :math:`h = s + z\,s(1-s)`:

.. math::
    y = d\,s + p_2\,x = x\,(p_2 + (p_1 - p_2)\,s)

.. math::
    \frac{\partial y}{\partial x} = (p_1 - p_2)\,h + p_2, \quad
    \frac{\partial y}{\partial p_1} = x\,h, \quad
    \frac{\partial y}{\partial p_2} = x\,(1 - h), \quad
    \frac{\partial y}{\partial \beta} = d^2\,s(1-s)

(arXiv 2009.04759, equations 7 and 8.) ``p1``, ``p2`` and ``beta`` are ``(C,)``, ``(N, C)`` or ``(N, 1)``, or they have
the rank of ``x`` and broadcast to it. The computation is in float32 or wider; ``y`` and ``grad_x`` have the dtype of
``x``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

# Beyond this |z|, z * s * (1 - s) is 0 in float32 and float64. Clamping z keeps inf * 0 out of the gradients.
_MAX_Z = 1e3


def align(parameter: Tensor, x: Tensor, channel_dim: int) -> Tensor:
    """``parameter``, of shape ``(C,)``, ``(N, C)`` or ``(N, 1)``, as a view that broadcasts to ``x``."""
    if parameter.dim() > 2:
        return parameter
    shape = [1] * x.dim()
    shape[channel_dim] = parameter.shape[-1]
    if parameter.dim() == 2:
        shape[0] = parameter.shape[0]
    return parameter.reshape(shape)


def spatial_mean(x: Tensor, channel_dim: int) -> Tensor:
    """The mean of ``x`` over space per sample and channel, ``(N, C)``, in float32 or wider."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    space = [d for d in range(1, x.dim()) if d != channel_dim % x.dim()]
    return x.mean(space, dtype=dtype) if space else x.to(dtype)


def forward(x: Tensor, p1: Tensor, p2: Tensor, beta: Tensor, channel_dim: int = 1) -> Tensor:
    """``y`` of ACON-C. Where beta is small, the result is the only tensor of its size that this allocates."""
    p1, p2, beta = _prepared(x, p1, p2, beta, channel_dim)
    p_diff = p1 - p2
    y = (x.to(p1.dtype) * (beta * p_diff)).sigmoid_()
    return y.mul_(p_diff).add_(p2).mul_(x).to(x.dtype)


def forward_composed(x: Tensor, p1: Tensor, p2: Tensor, beta: Tensor, channel_dim: int) -> Tensor:
    """The same ``y`` without operations in place, for tracing, export and autograd."""
    p1, p2, beta = _prepared(x, p1, p2, beta, channel_dim)
    p_diff = p1 - p2
    return (x * (p2 + p_diff * torch.sigmoid(x * (beta * p_diff)))).to(x.dtype)


def backward(
    grad_y: Tensor,
    x: Tensor,
    p1: Tensor,
    p2: Tensor,
    beta: Tensor,
    channel_dim: int,
    output_mask: Sequence[bool] = (True,) * 4,
) -> tuple[Tensor | None, ...]:
    """The gradients of ``x``, ``p1``, ``p2`` and ``beta``; None where ``output_mask`` is false.

    They can be differentiated again (double backward).
    """
    aligned = _prepared(x, p1, p2, beta, channel_dim)
    p1_wide, p2_wide, beta_wide = aligned
    grad, x_wide = grad_y.to(p1_wide.dtype), x.to(p1_wide.dtype)
    p_diff = p1_wide - p2_wide
    z = (beta_wide * p_diff * x_wide).clamp(-_MAX_Z, _MAX_Z)
    s = torch.sigmoid(z)
    slope = s * torch.sigmoid(-z)  # s (1-s), without the cancellation
    h = s + z * slope
    weighted = grad * x_wide
    grads: list[Tensor | None] = [None] * 4
    if output_mask[0]:
        grads[0] = (grad * (p_diff * h + p2_wide)).to(x.dtype)
    if output_mask[1]:
        grads[1] = _as(p1, (weighted * h).sum_to_size(p1_wide.shape))
    if output_mask[2]:
        grads[2] = _as(p2, (weighted - weighted * h).sum_to_size(p2_wide.shape))
    if output_mask[3]:
        summands = finite(weighted * slope * x_wide) * p_diff.square()
        grads[3] = _as(beta, finite(summands.sum_to_size(beta_wide.shape), beta.dtype))
    return tuple(grads)


def finite(grad_beta: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """``grad_beta`` with the largest numbers in place of infinities, those of ``dtype`` if it will be cast; NaN stays.

    Where beta is near 0, x * x may overflow to infinity. A factor of 0 may follow, from a saturated generator or from
    ``p1 - p2 = 0``. It turns an infinity into NaN, but a finite number into 0.
    """
    limit = torch.finfo(dtype or grad_beta.dtype).max
    return grad_beta.clamp(-limit, limit)


def _as(parameter: Tensor, grad: Tensor) -> Tensor:
    return grad.reshape(parameter.shape).to(parameter.dtype)


def _prepared(x: Tensor, p1: Tensor, p2: Tensor, beta: Tensor, channel_dim: int) -> tuple[Tensor, ...]:
    dtype = reduce(torch.promote_types, (t.dtype for t in (x, p1, p2, beta)), torch.float32)
    return tuple(align(p, x, channel_dim).to(dtype) for p in (p1, p2, beta))
