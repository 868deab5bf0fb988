"""Functional forms of the ACON activations (arXiv 2009.04759).

Each takes the input ``x`` of any rank, batch first, whose channels lie at ``channel_dim``; 1-D parameters hold one
value per channel, shape ``(C,)``; ``beta`` may also hold one per sample and channel, ``(N, C)``, or one per sample,
``(N, 1)``. The result has the shape and dtype of ``x``; what is kept for backward is ``x`` and the parameters.
"""

import torch
from torch import Tensor

from .kernels import backend_for, reference


class _AconC(torch.autograd.Function):
    """ACON-C over parameters that broadcast against ``x``; recomputes instead of keeping intermediates."""

    @staticmethod
    def forward(ctx, x: Tensor, p1: Tensor, p2: Tensor, beta: Tensor) -> Tensor:
        ctx.save_for_backward(x, p1, p2, beta)
        return backend_for(x).forward(x, p1, p2, beta)

    @staticmethod
    def backward(ctx, grad_y: Tensor) -> tuple[Tensor, ...]:
        x, *parameters = ctx.saved_tensors
        # With create_graph the gradient is differentiated itself, so it must be made of PyTorch operators.
        backend = reference if torch.is_grad_enabled() else backend_for(x)
        return backend.backward(grad_y, x, *parameters)


class _AconCPixel(torch.autograd.Function):
    """ACON-C whose beta is ``scale * sigmoid(x)``, so that no tensor of beta's is kept beside ``x``."""

    @staticmethod
    def forward(ctx, x: Tensor, p1: Tensor, p2: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(x, p1, p2)
        ctx.scale = scale
        return backend_for(x).forward(x, p1, p2, scale * x.sigmoid())

    @staticmethod
    def backward(ctx, grad_y: Tensor) -> tuple[Tensor, ...]:
        x, p1, p2 = ctx.saved_tensors
        gate = x.sigmoid()
        backend = reference if torch.is_grad_enabled() else backend_for(x)
        grad_x, grad_p1, grad_p2, grad_beta = backend.backward(grad_y, x, p1, p2, ctx.scale * gate)
        return grad_x + grad_beta * ctx.scale * gate * (1 - gate), grad_p1, grad_p2, None


def acon_a(x: Tensor, beta: Tensor, channel_dim: int = 1) -> Tensor:
    r"""ACON-A, which is Swish with a learned beta: :math:`x\,\sigma(\beta x)` (section 3.2)."""
    return acon_c(x, torch.ones_like(beta), torch.zeros_like(beta), beta, channel_dim)


def acon_b(x: Tensor, p: Tensor, beta: Tensor, channel_dim: int = 1) -> Tensor:
    r"""ACON-B: :math:`(1-p)\,x\,\sigma(\beta (1-p)\,x) + p\,x` (section 3.2)."""
    return acon_c(x, torch.ones_like(p), p, beta, channel_dim)


def acon_c(x: Tensor, p1: Tensor, p2: Tensor, beta: Tensor, channel_dim: int = 1) -> Tensor:
    r"""ACON-C: :math:`(p_1 - p_2)\,x\,\sigma(\beta (p_1 - p_2)\,x) + p_2\,x` (equation 7).

    Raises:
        ValueError: a parameter's shape is none of ``(C,)``, ``(N, C)`` and ``(N, 1)``.
    """
    parameters = [_align(t, x, channel_dim) for t in (p1, p2, beta)]
    if torch.jit.is_tracing() or torch.compiler.is_exporting():
        return reference.forward_composed(x, *parameters)
    return _AconC.apply(x, *parameters)


def acon_c_pixel(x: Tensor, p1: Tensor, p2: Tensor, channel_dim: int = 1, scale: float = 1.0) -> Tensor:
    r"""ACON-C with one beta per element, :math:`\beta = k\,\sigma(x)`: the pixel-wise Meta-ACON (section 3.3).

    ``scale`` is :math:`k`; the paper has 1.
    """
    p1, p2 = _align(p1, x, channel_dim), _align(p2, x, channel_dim)
    if torch.jit.is_tracing() or torch.compiler.is_exporting():
        return reference.forward_composed(x, p1, p2, scale * x.sigmoid())
    return _AconCPixel.apply(x, p1, p2, scale)


def acon_frelu(x: Tensor, eta_b: Tensor) -> Tensor:
    r"""ACON of :math:`\eta_a = x` and a spatial condition :math:`\eta_b`, with :math:`\beta = 1`.

    .. math::
        (x - \eta_b)\,\sigma(x - \eta_b) + \eta_b

    (Table 1, row FReLU.) ``eta_b`` has the shape of ``x``.
    """
    return torch.nn.functional.silu(x - eta_b) + eta_b


def _align(parameter: Tensor, x: Tensor, channel_dim: int) -> Tensor:
    """View a ``(C,)``, ``(N, C)`` or ``(N, 1)`` tensor so that it broadcasts against ``x``."""
    channels = x.shape[channel_dim]
    shape = [1] * x.dim()
    if parameter.dim() == 1 and parameter.shape[0] == channels:
        shape[channel_dim] = channels
    elif parameter.dim() == 2 and parameter.shape[0] == x.shape[0] and parameter.shape[1] in (1, channels):
        shape[0], shape[channel_dim] = parameter.shape
    else:
        raise ValueError(
            f"a parameter of shape {tuple(parameter.shape)} fits no input of shape {tuple(x.shape)} whose channels lie "
            f"at dimension {channel_dim}: it must be (C,), (N, C) or (N, 1) = "
            f"({channels},), ({x.shape[0]}, {channels}) or ({x.shape[0]}, 1)"
        )
    return parameter.reshape(shape)
