"""The activations that are checked, each with its formula in plain PyTorch, which is independent of ``acon_mm/ops``."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as TF

from ...ops import functional as F


@dataclass(frozen=True)
class Kind:
    """An activation.

    Attributes:
        build: makes the module from the number of channels and the channel dimension.
        formula: what a call of the module must compute.
        has_norm: training and evaluation differ.
        main: one of the few that costly checks take.
        wide_sums: the gradients of parameters are as exact as float32, whatever the dtype of x.
        depends_on_mean: beta is a function of the mean of x, which an empty plane does not have.
        tolerance: the largest error of the gradients of parameters, relative to the largest element.
        has_window: it has a convolution, which PyTorch refuses for empty planes.
    """

    name: str
    build: Callable[[int, int], nn.Module]
    formula: Callable[[Any, Tensor], Tensor]
    has_norm: bool = False
    main: bool = False
    wide_sums: bool = True
    depends_on_mean: bool = False
    tolerance: float = 1e-4
    has_window: bool = False

    def random(self, channels: int, channel_dim: int = 1, device: torch.device | None = None) -> nn.Module:
        """A module with random parameters and statistics."""
        module = self.build(channels, channel_dim)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
            for name, buffer in module.named_buffers():
                if name.endswith("running_mean"):
                    buffer.normal_(std=0.1)
                elif name.endswith("running_var"):
                    buffer.uniform_(0.5, 1.5)
        return module.to(device or "cpu")

    def plain(self, module: nn.Module) -> Plain:
        """A module that computes the formula with a copy of the parameters."""
        return Plain(self, copy.deepcopy(module))


class Plain(nn.Module):
    """An activation by its formula."""

    def __init__(self, kind: Kind, module: nn.Module):
        super().__init__()
        self.kind, self.module = kind, module

    def forward(self, x: Tensor) -> Tensor:
        return self.kind.formula(self.module, x).to(x.dtype)


class Functional(nn.Module):
    """A function of ``acon_mm/ops/functional.py`` with its parameters."""

    def __init__(self, function: Callable[..., Tensor], names: str, channels: int, channel_dim: int):
        super().__init__()
        self.function, self.channel_dim = function, channel_dim
        starts = {"p1": 1.0, "p2": 0.0, "p": 0.25, "beta": 1.0, "scale": 1.0, "shift": 0.0}
        self.values = nn.ParameterDict({n: nn.Parameter(torch.full((channels,), starts[n])) for n in names.split()})

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.values.values(), self.channel_dim)


def of_this_machine(with_modules: bool) -> list[Kind]:
    """All kinds, or those that need no more than ``acon_mm/ops``."""
    if not with_modules:
        return _functions()
    # ACON-A, ACON-B and ACON-C are their functions.
    return [*_modules(), *(replace(kind, main=False) for kind in _functions() if "(" in kind.name)]


def main_of(kinds: list[Kind]) -> list[Kind]:
    return [kind for kind in kinds if kind.main]


def _functions() -> list[Kind]:
    def of(function: Callable[..., Tensor], names: str) -> Callable[[int, int], nn.Module]:
        return lambda channels, channel_dim: Functional(function, names, channels, channel_dim)

    return [
        Kind("acon_a", of(F.acon_a, "beta"), lambda m, x: _acon_a(x, m.channel_dim, *m.values.values())),
        Kind("acon_b", of(F.acon_b, "p beta"), lambda m, x: _acon_b(x, m.channel_dim, *m.values.values())),
        Kind(
            "acon_c", of(F.acon_c, "p1 p2 beta"), lambda m, x: acon_c(x, m.channel_dim, *m.values.values()), main=True
        ),
        Kind(
            "acon_c (N, C)",
            of(_acon_c_by_mean, "p1 p2 scale shift"),
            lambda m, x: _per_sample(x, m, whole=False),
            main=True,
            depends_on_mean=True,
        ),
        Kind(
            "acon_c (N, 1)",
            of(_acon_c_by_total, "p1 p2 scale shift"),
            lambda m, x: _per_sample(x, m, whole=True),
            depends_on_mean=True,
        ),
        Kind(
            "acon_c_pixel",
            of(F.acon_c_pixel, "p1 p2"),
            lambda m, x: acon_c(x, m.channel_dim, m.values["p1"], m.values["p2"], x.sigmoid()),
            wide_sums=False,
        ),
    ]


def _modules() -> list[Kind]:
    layers = import_module("acon_mm.layers")

    def of(name: str, **options: Any) -> Callable[[int, int], nn.Module]:
        cls = getattr(layers, name)
        return lambda channels, channel_dim: cls(channels, channel_dim=channel_dim, init="paper", **options)

    # A batch norm over few values magnifies the rounding errors of the gradients that pass it.
    no_norm = Kind("MetaAconC no norm", of("MetaAconC", norm_cfg=None), _meta_channel, main=True, depends_on_mean=True)
    return [
        Kind("AconA", of("AconA"), lambda m, x: _acon_a(x, m.channel_dim, m.beta)),
        Kind("AconB", of("AconB"), lambda m, x: _acon_b(x, m.channel_dim, m.p, m.beta)),
        Kind("AconC", of("AconC"), lambda m, x: acon_c(x, m.channel_dim, m.p1, m.p2, m.beta), main=True),
        replace(no_norm, name="MetaAconC", build=of("MetaAconC"), has_norm=True, tolerance=1e-3),
        no_norm,
        Kind("MetaAconC layer", of("MetaAconC", generator="layer"), _meta_layer),
        Kind(
            "MetaAconC pixel",
            of("MetaAconC", generator="pixel"),
            lambda m, x: acon_c(x, m.channel_dim, m.p1, m.p2, x.sigmoid()),
            wide_sums=False,
        ),
        Kind("AconFReLU", of("AconFReLU"), _acon_frelu, has_norm=True, tolerance=2e-2, has_window=True),
    ]


def _acon_c_by_mean(x: Tensor, p1: Tensor, p2: Tensor, scale: Tensor, shift: Tensor, channel_dim: int) -> Tensor:
    """``acon_c`` with a beta ``(N, C)`` that depends on x, as Meta-ACON's."""
    x, mean = F.input_and_mean(x, channel_dim)
    return F.acon_c(x, p1, p2, torch.sigmoid(scale * mean.to(scale.dtype) + shift), channel_dim)


def _acon_c_by_total(x: Tensor, p1: Tensor, p2: Tensor, scale: Tensor, shift: Tensor, channel_dim: int) -> Tensor:
    """``acon_c`` with a beta ``(N, 1)`` that depends on x."""
    x, mean = F.input_and_mean(x, channel_dim)
    value = (scale * mean.to(scale.dtype) + shift).mean(1, keepdim=True)
    return F.acon_c(x, p1, p2, torch.sigmoid(value), channel_dim)


def acon_c(x: Tensor, dim: int, p1: Tensor, p2: Tensor, beta: Tensor) -> Tensor:
    r""":math:`(p_1 - p_2)\,x\,\sigma(\beta (p_1 - p_2)\,x) + p_2\,x` (equation 7)."""
    p1, p2, beta = (_aligned(p, x, dim) for p in (p1, p2, beta))
    d = (p1 - p2) * x
    return d * torch.sigmoid(beta * d) + p2 * x


def _acon_a(x: Tensor, dim: int, beta: Tensor) -> Tensor:
    return x * torch.sigmoid(_aligned(beta, x, dim) * x)


def _acon_b(x: Tensor, dim: int, p: Tensor, beta: Tensor) -> Tensor:
    return acon_c(x, dim, torch.ones_like(p), p, beta)


def _per_sample(x: Tensor, m: Any, whole: bool) -> Tensor:
    p1, p2, scale, shift = m.values.values()
    value = scale * _mean(x, m.channel_dim) + shift
    if whole:
        value = value.mean(1, keepdim=True)
    return acon_c(x, m.channel_dim, p1, p2, torch.sigmoid(value))


def _meta_layer(m: Any, x: Tensor) -> Tensor:
    return acon_c(x, m.channel_dim, m.p1, m.p2, torch.sigmoid(x.flatten(1).sum(1, keepdim=True)))


def _meta_channel(m: Any, x: Tensor) -> Tensor:
    value = _mean(x, m.channel_dim).to(m.fc1.weight.dtype)
    for linear, norm in ((m.fc1, m.bn1), (m.fc2, m.bn2)):
        value = _norm(norm, TF.linear(value, linear.weight.flatten(1), linear.bias))
    return acon_c(x, m.channel_dim, m.p1, m.p2, torch.sigmoid(value))


def _acon_frelu(m: Any, x: Tensor) -> Tensor:
    maps = x.movedim(m.channel_dim, 1)
    if maps.dim() < 4:
        maps = maps[:, :, None] if maps.dim() == 3 else maps[:, :, None, None]
    if x.dim() == 5:  # the depth counts as part of the batch
        maps = maps.transpose(1, 2).flatten(0, 1)
    maps = maps.to(m.conv_frelu.weight.dtype)
    window = m.conv_frelu
    eta = _norm(m.bn1, TF.conv2d(maps, window.weight, window.bias, padding=1, groups=window.groups))
    y = _norm(m.bn2, TF.silu(maps - eta) + eta)
    if x.dim() == 5:
        y = y.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)
    return y.reshape(x.movedim(m.channel_dim, 1).shape).movedim(1, m.channel_dim)


def _norm(norm: Any, x: Tensor) -> Tensor:
    if isinstance(norm, nn.Identity):
        return x
    training = norm.training and x.numel() > x.shape[1]  # a single value per channel has no statistics
    return TF.batch_norm(
        x, norm.running_mean, norm.running_var, norm.weight, norm.bias, training, norm.momentum, norm.eps
    )


def _mean(x: Tensor, dim: int) -> Tensor:
    space = [d for d in range(1, x.dim()) if d != dim % x.dim()]
    return x.mean(space, dtype=torch.promote_types(x.dtype, torch.float32)) if space else x


def _aligned(p: Tensor, x: Tensor, dim: int) -> Tensor:
    """A parameter ``(C,)``, ``(N, C)`` or ``(N, 1)`` in a shape that broadcasts to x."""
    if p.shape == x.shape and p.dim() > 2:
        return p
    shape = [1] * x.dim()
    shape[dim] = p.shape[-1]
    if p.dim() == 2:
        shape[0] = p.shape[0]
    return p.reshape(shape)
