"""The implementations of ACON-C, and the one place that chooses among them.

- ``compiled`` (``cpu.py``, ``csrc/``): C++ for CPUs, an operator with its own autograd. ``setup.py`` builds it where
  there is a C++ compiler.
- ``triton`` (``gpu.py``): kernels for CUDA devices.
- ``reference``: plain PyTorch. It defines what the others compute, and takes every tensor that they do not.

``triton`` and ``reference`` are modules with two functions; p1, p2 and beta are ``(C,)``, ``(N, C)`` or ``(N, 1)``::

    forward(x, p1, p2, beta, channel_dim) -> y
    backward(grad_y, x, p1, p2, beta, channel_dim) -> grad_x, grad_p1, grad_p2, grad_beta

Each gradient has the shape and dtype of its tensor. No implementation has a state, so a model trained with one can go
on with another. ``compiled`` also has Meta-ACON in one operator (``acon_mm/layers/meta_acon.py``).

The environment variable ``ACON_MM_BACKEND`` forces one of the names: it computes all that it can, and ``reference``
the rest. An implementation that cannot run here is then an error.

Without the variable, the first activation that would use ``compiled`` but cannot logs one warning, with the reason and
the command that builds the kernels. ``ACON_MM_BACKEND=reference`` chooses plain PyTorch without a warning.
"""

import logging
import os
from functools import cache
from types import ModuleType

import torch
from mmengine.logging import print_log
from torch import Tensor

from . import cpu, gpu, reference

BACKENDS: dict[str, ModuleType] = {"compiled": cpu, "triton": gpu, "reference": reference}


def backend_for(x: Tensor, *parameters: Tensor) -> str:
    """The name of the implementation for ``x`` and the parameters, by device and dtype."""
    compute_dtype = torch.promote_types(x.dtype, torch.float32)
    for parameter in parameters:
        compute_dtype = torch.promote_types(compute_dtype, parameter.dtype)
    for name in _candidates:
        if BACKENDS[name].serves(x, compute_dtype):
            break
    if name == "reference" and "compiled" in _candidates and cpu.is_meant_for(x, compute_dtype):
        _warn_of_missing_kernels()
    return name


def _candidates_for(name: str | None) -> list[str]:
    """The names of the implementations to choose from, best first; ``name`` is the value of ACON_MM_BACKEND.

    Raises:
        ImportError: there is no implementation of this name, or it cannot run here.
    """
    if not name:
        return list(BACKENDS)
    if name not in BACKENDS:
        raise ImportError(f"ACON_MM_BACKEND must be one of {', '.join(BACKENDS)} or unset, got {name!r}")
    problem = BACKENDS[name].problem()
    if problem:
        raise ImportError(f"ACON_MM_BACKEND={name} is not possible: {problem}")
    return [name, "reference"]


def _warn_of_missing_kernels() -> None:
    if not torch.compiler.is_compiling():  # a log cannot be compiled
        _log_missing_kernels()


@cache
def _log_missing_kernels() -> None:
    print_log(
        f"ACON: activations on the CPU run in plain PyTorch, which is slower, because {cpu.problem()}. "
        "ACON_MM_BACKEND=reference chooses plain PyTorch without this warning.",
        logger="current",
        level=logging.WARNING,
    )


_candidates = _candidates_for(os.environ.get("ACON_MM_BACKEND"))
