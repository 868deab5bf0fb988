r"""ACON-C for CUDA devices, in Triton.

Forward is one pass over ``x``. Backward is one pass over ``x`` and ``grad_y``: it writes ``grad_x`` and, per tile, the
sums that the gradients of p1, p2 and beta are made of. A small reduction adds these sums. ``reference.py`` explains the
formula.

The kernels walk a tensor in the order of its memory: as ``(outer, C, inner)`` with tiles along ``inner``, or, where
channels are last in memory (``inner`` = 1), as ``(rows, C)`` with tiles of rows and channels. With
``ACON_MM_BACKEND=triton`` and ``TRITON_INTERPRET=1``, they run on a CPU.
"""

import os
from importlib.util import find_spec

import torch
from torch import Tensor

_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1" and os.environ.get("ACON_MM_BACKEND") == "triton"
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def problem() -> str | None:
    """Why the kernels cannot run here; None if they can."""
    if find_spec("triton") is None:
        return "triton is not installed: pip install triton"
    if not torch.cuda.is_available() and not _INTERPRETED:
        return "there is no CUDA device (TRITON_INTERPRET=1 runs the kernels on a CPU, slowly)"
    return None


def serves(x: Tensor, compute_dtype: torch.dtype) -> bool:
    """Whether the kernels take ``x`` and compute in ``compute_dtype``."""
    device = x.is_cuda or (_INTERPRETED and x.device.type == "cpu")
    return device and x.dtype in _DTYPES and compute_dtype == torch.float32 and problem() is None


def forward(x: Tensor, p1: Tensor, p2: Tensor, beta: Tensor, channel_dim: int) -> Tensor:
    """``y`` of ACON-C (see ``backends.py`` for the shapes)."""
    from .gpu_kernels import launch_forward

    return launch_forward(x, p1, p2, beta, channel_dim % x.dim())


def backward(grad_y: Tensor, x: Tensor, p1: Tensor, p2: Tensor, beta: Tensor, channel_dim: int) -> tuple[Tensor, ...]:
    """The gradients of ``x``, ``p1``, ``p2`` and ``beta``."""
    from .gpu_kernels import launch_backward

    return launch_backward(grad_y, x, p1, p2, beta, channel_dim % x.dim())
