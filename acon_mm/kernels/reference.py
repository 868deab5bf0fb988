r"""ACON-C in plain PyTorch: the definition that every other implementation is tested against.

With :math:`d = (p_1 - p_2)\,x`, :math:`z = \beta d`, :math:`s = \sigma(z)` and :math:`h = s + z\,s(1-s)`:

.. math::
    y = d\,s + p_2\,x = x\,(p_2 + (p_1 - p_2)\,s)

.. math::
    \frac{\partial y}{\partial x} = (p_1 - p_2)\,h + p_2, \quad
    \frac{\partial y}{\partial p_1} = x\,h, \quad
    \frac{\partial y}{\partial p_2} = x\,(1 - h), \quad
    \frac{\partial y}{\partial \beta} = d^2\,s(1-s)

(arXiv 2009.04759, equations 7 and 8.) ``p1``, ``p2`` and ``beta`` broadcast against ``x``. All is computed in
float32 or wider; ``y`` and ``grad_x`` have the dtype of ``x``.
"""

from functools import reduce

import torch
from torch import Tensor

# Beyond this |z|, z * s * (1 - s) is 0 in float32 and float64 alike; clamping keeps inf * 0 out of the gradients.
_MAX_Z = 1e3


def forward(x: Tensor, p1: Tensor, p2: Tensor, beta: Tensor) -> Tensor:
    """``y`` of ACON-C; allocates the result and nothing else of its size where ``beta`` is small."""
    dtype = _compute_dtype(x, p1, p2, beta)
    p1, p2, beta = p1.to(dtype), p2.to(dtype), beta.to(dtype)
    width = p1 - p2
    y = (x.to(dtype) * (beta * width)).sigmoid_()
    return y.mul_(width).add_(p2).mul_(x).to(x.dtype)


def forward_composed(x: Tensor, p1: Tensor, p2: Tensor, beta: Tensor) -> Tensor:
    """The same ``y`` out of operators that tracing, export and autograd see one by one."""
    dtype = _compute_dtype(x, p1, p2, beta)
    p1, p2, beta = p1.to(dtype), p2.to(dtype), beta.to(dtype)
    width = p1 - p2
    return (x * (p2 + width * torch.sigmoid(x * (beta * width)))).to(x.dtype)


def backward(grad_y: Tensor, x: Tensor, p1: Tensor, p2: Tensor, beta: Tensor) -> tuple[Tensor, ...]:
    """Gradients of ``x``, ``p1``, ``p2`` and ``beta``; differentiable once more (double backward)."""
    dtype = _compute_dtype(x, p1, p2, beta)
    grad, wide_x = grad_y.to(dtype), x.to(dtype)
    wide_p1, wide_p2, wide_beta = p1.to(dtype), p2.to(dtype), beta.to(dtype)
    width = wide_p1 - wide_p2
    d = width * wide_x
    z = (wide_beta * d).clamp(-_MAX_Z, _MAX_Z)
    s = torch.sigmoid(z)
    slope = s * (1 - s)
    h = s + z * slope
    grad_x = grad * (width * h + wide_p2)
    weighted = grad * wide_x
    weighted_h = weighted * h
    grad_beta = (grad * (d * slope) * d).sum_to_size(beta.shape)
    # d * d may overflow where beta is near 0; finite, so that a saturated generator's slope of 0 makes it 0, not NaN.
    limit = torch.finfo(dtype).max
    return (
        grad_x.to(x.dtype),
        weighted_h.sum_to_size(p1.shape).to(p1.dtype),
        (weighted - weighted_h).sum_to_size(p2.shape).to(p2.dtype),
        grad_beta.clamp(-limit, limit).to(beta.dtype),
    )


def _compute_dtype(*tensors: Tensor) -> torch.dtype:
    return reduce(torch.promote_types, (t.dtype for t in tensors), torch.float32)
