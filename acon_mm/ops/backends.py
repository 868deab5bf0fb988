"""Implementations of ACON-C, and the one place that chooses among them.

- ``compiled`` (``cpu.py``, ``csrc/``): C++ for CPUs, an operator with its own autograd; there where it could be built.
- ``triton`` (``gpu.py``): kernels for CUDA devices.
- ``reference``: plain PyTorch, the definition of what the others compute; serves whatever they do not.

``triton`` and ``reference`` are modules with two functions; parameters are ``(C,)``, ``(N, C)`` or ``(N, 1)``::

    forward(x, p1, p2, beta, channel_dim) -> y
    backward(grad_y, x, p1, p2, beta, channel_dim) -> grad_x, grad_p1, grad_p2, grad_beta

The gradients have the shapes and dtypes of their tensors; ``compiled`` has the same behind one operator. None of them
has a state: a model that was trained by one goes on with any other. ``compiled`` has Meta-ACON with its generator in
one operator as well (``acon_mm/layers/meta_acon.py``).

The environment variable ``ACON_MM_BACKEND`` set to one of the names makes it serve all that it can, and the reference
the rest; naming one that is not there is an error.
"""

import os
from types import ModuleType

import torch
from torch import Tensor

from . import cpu, gpu, reference

BACKENDS: dict[str, ModuleType] = {"compiled": cpu, "triton": gpu, "reference": reference}


def backend_for(x: Tensor, *parameters: Tensor) -> str:
    """Name of the implementation that serves ``x`` and the parameters, by their device and dtype."""
    compute_dtype = torch.promote_types(x.dtype, torch.float32)
    for parameter in parameters:
        compute_dtype = torch.promote_types(compute_dtype, parameter.dtype)
    for name in _candidates:
        if BACKENDS[name].serves(x, compute_dtype):
            return name
    raise AssertionError("the reference serves every tensor")


def _forced(name: str | None) -> list[str]:
    """Names of the implementations that may serve, best first.

    Raises:
        ImportError: ``name``, the value of ACON_MM_BACKEND, is none of them or cannot run here.
    """
    if not name:
        return list(BACKENDS)
    if name not in BACKENDS:
        raise ImportError(f"ACON_MM_BACKEND must be one of {', '.join(BACKENDS)} or unset, got {name!r}")
    problem = BACKENDS[name].problem()
    if problem:
        raise ImportError(f"ACON_MM_BACKEND={name} cannot be: {problem}")
    return [name, "reference"]


_candidates = _forced(os.environ.get("ACON_MM_BACKEND"))
