"""ACON-C against float64, on tensors of every memory layout."""

import torch
from torch import Tensor

from acon_mm.compat import strict_zip
from acon_mm.ops import reference

# y and grad_x: in units of the last place of |x| (1 + |z|) and |grad_y| (1 + |z|), as the rounding of z passes on;
# half a unit more for rounding to a narrow type.
ULPS = 4


def exact(x: Tensor, p1: Tensor, p2: Tensor, beta: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """ACON-C and its z out of float64 operators."""
    p1, p2, beta = (reference.align(t, x, dim) for t in (p1, p2, beta))
    d = (p1 - p2) * x
    return d * torch.sigmoid(beta * d) + p2 * x, beta * d


def layouts(shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, tuple[Tensor, int]]:
    """The same values in different memory layouts, each with the dimension of its channels."""
    x = torch.randn(shape, dtype=torch.float64).mul_(3).to(dtype)
    last = x.movedim(1, -1).contiguous()
    wide = torch.zeros(*shape[:-1], 2 * shape[-1], dtype=dtype)
    wide[..., ::2] = x
    return {
        "contiguous": (x, 1),
        "channels_last": (last.movedim(-1, 1), 1),
        "last dimension": (last, -1),
        "strided": (wide[..., ::2], 1),
        "flipped strides": (x.transpose(0, -1).contiguous().transpose(0, -1), 1),
    }


def run(function, x: Tensor, parameters: list[Tensor], dim: int, grad: Tensor) -> list[Tensor]:
    """y, and the gradients of all inputs."""
    inputs = [t.detach().clone(memory_format=torch.preserve_format).requires_grad_() for t in (x, *parameters)]
    y = function(*inputs, dim)
    return [y.detach(), *torch.autograd.grad(y, inputs, grad)]


def assert_exact(function, x: Tensor, parameters: list[Tensor], dim: int, roundings: float = 0.5) -> None:
    """``roundings``: units in the last place that rounding to the dtype of ``x`` may take."""
    grad = torch.randn(x.shape, dtype=torch.float64).to(x.dtype)
    y, grad_x, *grads = run(function, x, parameters, dim, grad)
    wide = [t.double() for t in (x, *parameters)]
    wanted = run(lambda *inputs: exact(*inputs)[0], wide[0], wide[1:], dim, grad.double())
    z = exact(*wide, dim)[1].abs()
    # What is computed in, and what results are rounded to. Where parameters are float32, float64 starts from these.
    eps, rounding = torch.finfo(torch.promote_types(x.dtype, torch.float32)).eps, torch.finfo(x.dtype).eps * roundings
    eps = max(eps, torch.finfo(torch.float64).eps)
    slopes = (parameters[0].abs() + parameters[1].abs() + 1).max().item()
    tiny = torch.finfo(x.dtype).tiny
    for got, want, size in ((y, wanted[0], wide[0].abs()), (grad_x, wanted[1], grad.double().abs())):
        assert got.dtype == x.dtype
        bound = slopes * size * (1 + z) * ULPS * eps + rounding * want.abs() + tiny
        assert ((got.double() - want).abs() <= bound).all(), ((got.double() - want).abs() / bound).max()
    summands = summand_sizes(*wide, dim, grad.double())
    for got, want, size, parameter in strict_zip(grads, wanted[2:], summands, parameters):
        assert got.dtype == parameter.dtype and got.shape == parameter.shape
        # 8 units in the last place of float32, whatever the sum of the summands is; and half a unit of its own.
        bound = (size * 1e-6).view(got.shape) + torch.finfo(got.dtype).eps * want.abs() + 1e-30
        assert ((got.double() - want).abs() <= bound).all(), ((got.double() - want).abs() / bound).max()


def summand_sizes(x: Tensor, p1: Tensor, p2: Tensor, beta: Tensor, dim: int, grad: Tensor) -> list[Tensor]:
    """For each gradient of a parameter: the sum of the magnitudes of its summands, in float64.

    A summand is made of s = sigmoid(z). z is rounded, and so is s before 1 - s is taken, at most until nothing is left.
    """
    p1, p2, beta = (reference.align(t, x, dim) for t in (p1, p2, beta))
    d = (p1 - p2) * x
    z, s, size = (beta * d).abs(), torch.sigmoid(beta * d), (grad * x).abs()
    slope = s * torch.sigmoid(-beta * d)
    rounded = torch.minimum(s, 1e6 * slope)
    of_p1 = size * (s + z * rounded + (z + z * z) * slope)
    of_beta = grad.abs() * d * d * (rounded + slope * (1 + z))
    of = strict_zip((of_p1, of_p1 + size, of_beta), (p1, p2, beta))  # p2's is a difference of two sums
    return [each.sum_to_size(parameter.shape) for each, parameter in of]


def assert_create_graph_changes_nothing(y: Tensor, inputs: list[Tensor]) -> None:
    """The gradients that can be differentiated again are those of the kernels. Neither gradcheck compares the two."""
    grad = torch.randn_like(y)
    grads = torch.autograd.grad(y, inputs, grad, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(y, inputs, grad, create_graph=True), grads)


def parameters_for(x: Tensor, dim: int, beta_shape: str) -> list[Tensor]:
    """p1, p2 and a beta of shape ``(C,)``, ``(N, C)`` or ``(N, 1)``: ``beta_shape`` is ``C``, ``NC`` or ``N1``."""
    channels, samples = x.shape[dim], x.shape[0]
    shape = {"C": (channels,), "NC": (samples, channels), "N1": (samples, 1)}[beta_shape]
    return [torch.randn(channels), torch.randn(channels), torch.randn(shape)]
