"""The operators ``torch.ops.acon_mm``, declared once for all devices, and what computes them.

=====================  ==============================================================================================
``acon_c``             ACON-C, with autograd; equation 7. p1, p2 and beta are ``(C,)``, ``(N, C)`` or ``(N, 1)``.
``acon_c_``            the same, which may overwrite x where a norm made it, and then returns x (``csrc/norm_before.h``)
``acon_c_backward``    its gradients; ``output_mask`` says which of x, p1, p2 and beta need theirs, the others are None
``channel_mean``       the mean per sample and channel, ``(N, C)``
``meta_acon_c``        Meta-ACON-C with its channel-wise generator, with autograd (only with the compiled library)
``meta_acon_c_``       the same, as ``acon_c_``
``*_reference``        the same by ``reference.py``, on every device
=====================  ==============================================================================================

PyTorch chooses the implementation by the device of the tensors: that of the compiled library for CPUs and CUDA
(``cpu.py``, ``gpu.py``), and ``reference.py`` for all others. :mod:`acon_mm.ops.backends` decides at import which there
are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional

import torch
from torch import Tensor

from .. import compat
from . import reference
from .arguments import check_arguments, check_gradient, check_input
from .generator import Generator, generate_beta

Mask = list[bool]
Forward = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]
Backward = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int, Mask], tuple[Optional[Tensor], ...]]

_ACON_C = "(Tensor x, Tensor p1, Tensor p2, Tensor beta, int channel_dim=1) -> Tensor"
_BACKWARD = (
    "(Tensor grad_y, Tensor x, Tensor p1, Tensor p2, Tensor beta, int channel_dim, bool[4] output_mask) "
    "-> (Tensor grad_x, Tensor grad_p1, Tensor grad_p2, Tensor grad_beta)"
)
# The names from fc1_weight to beta_scale are the fields of `Generator`.
_META = (
    "(Tensor x, Tensor p1, Tensor p2, "
    "Tensor fc1_weight, Tensor fc1_bias, Tensor? bn1_weight, Tensor? bn1_bias, "
    "Tensor(a!)? bn1_running_mean, Tensor(b!)? bn1_running_var, Tensor(c!)? bn1_num_batches_tracked, "
    "Tensor fc2_weight, Tensor fc2_bias, Tensor? bn2_weight, Tensor? bn2_bias, "
    "Tensor(d!)? bn2_running_mean, Tensor(e!)? bn2_running_var, Tensor(f!)? bn2_num_batches_tracked, "
    "bool batch_statistics, float momentum, float eps, float beta_scale, int channel_dim) -> Tensor"
)

library = torch.library.Library("acon_mm", "DEF")
for _schema in (
    "acon_c" + _ACON_C,
    "acon_c_(Tensor(a!) x, Tensor p1, Tensor p2, Tensor beta, int channel_dim=1) -> Tensor(a)",
    "acon_c_backward" + _BACKWARD,
    "channel_mean(Tensor x, int channel_dim=1) -> Tensor",
    "acon_c_reference" + _ACON_C,
    "acon_c_backward_reference" + _BACKWARD,
    "meta_acon_c" + _META,
    "meta_acon_c_" + _META.replace("Tensor x", "Tensor(x!) x").replace("-> Tensor", "-> Tensor(x)"),
    "meta_acon_c_reference" + _META,
    # The machine code of a kernel for GPUs, which C++ asks for (`gpu.machine_code`).
    "gpu_kernel(str name, int[] types, int[] divisors, int[] constants, int warps, int device) -> (Tensor, str, int)",
):
    compat.define(library, _schema)


def implement(forward: Forward, backward: Backward, key: str) -> None:
    """Let a pair of functions serve the devices of a dispatch key. The arguments are checked before."""

    def checked_forward(x: Tensor, p1: Tensor, p2: Tensor, beta: Tensor, channel_dim: int = 1) -> Tensor:
        return forward(x, p1, p2, beta, check_arguments(x, p1, p2, beta, channel_dim))

    def checked_backward(
        grad_y: Tensor, x: Tensor, p1: Tensor, p2: Tensor, beta: Tensor, channel_dim: int, output_mask: Mask
    ) -> tuple[Tensor | None, ...]:
        check_gradient(grad_y, x)
        dim = check_arguments(x, p1, p2, beta, channel_dim)
        return backward(grad_y, x, p1, p2, beta, dim, output_mask)

    library.impl("acon_c", checked_forward, key)
    library.impl("acon_c_backward", checked_backward, key)


def with_autograd(forward: Forward, backward: Backward) -> Forward:
    """ACON-C with autograd, which keeps only its inputs."""

    class AconC(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, p1: Tensor, p2: Tensor, beta: Tensor, channel_dim: int = 1) -> Tensor:
            ctx.save_for_backward(x, p1, p2, beta)
            ctx.channel_dim = channel_dim
            return forward(x, p1, p2, beta, channel_dim)

        @staticmethod
        def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
            x, p1, p2, beta = ctx.saved_tensors
            mask = list(ctx.needs_input_grad[:4])
            # With create_graph the gradient is itself differentiated, so it must be made of PyTorch's operators.
            chosen = reference.backward if torch.is_grad_enabled() else backward
            return *chosen(grad_y, x, p1, p2, beta, ctx.channel_dim, mask), None

    return AconC.apply


def implement_autograd() -> None:
    """Autograd in Python, for where there is no compiled library."""

    def forward(x: Tensor, p1: Tensor, p2: Tensor, beta: Tensor, channel_dim: int) -> Tensor:
        with compat.BelowAutograd():
            return torch.ops.acon_mm.acon_c.default(x, p1, p2, beta, channel_dim)

    def backward(*arguments: Any) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            return reference.backward(*arguments)
        with compat.BelowAutograd():
            return torch.ops.acon_mm.acon_c_backward.default(*arguments)

    library.impl("acon_c", with_autograd(forward, backward), "Autograd")
    library.impl("acon_c_", torch.ops.acon_mm.acon_c.default, "Autograd")
    library.impl("acon_c_backward", backward, "Autograd")


def _meta_acon_c_reference(x: Tensor, p1: Tensor, p2: Tensor, *generator_and_dim: Any) -> Tensor:
    *values, channel_dim = generator_and_dim
    beta = generate_beta(reference.spatial_mean(x, channel_dim), Generator(*values))
    return torch.ops.acon_mm.acon_c.default(x, p1, p2, beta, channel_dim)


def _channel_mean_reference(x: Tensor, channel_dim: int = 1) -> Tensor:
    return reference.spatial_mean(x, check_input(x, channel_dim))


implement(reference.forward, reference.backward, "CompositeExplicitAutograd")
library.impl("channel_mean", _channel_mean_reference, "CompositeExplicitAutograd")
# Only autograd of the library overwrites x.
library.impl("acon_c_", torch.ops.acon_mm.acon_c.default, "CompositeExplicitAutograd")
library.impl("acon_c_", torch.ops.acon_mm.acon_c.default, "FuncTorchBatched")
# C++ calls these for double backward, and for tensors that its kernels do not take.
library.impl("acon_c_reference", reference.forward, "CompositeImplicitAutograd")
library.impl("acon_c_backward_reference", reference.backward, "CompositeImplicitAutograd")
library.impl("meta_acon_c_reference", _meta_acon_c_reference, "CompositeImplicitAutograd")
