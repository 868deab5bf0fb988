"""Which implementation of the operators serves which devices. It is decided once, at import.

- ``compiled`` (``cpu.py``, ``csrc/``): the C++ library, for CPUs and for CUDA devices, where it launches the Triton
  kernels. ``setup.py`` builds it where there is a C++ compiler.
- ``triton`` (``gpu_launches.py``): the same Triton kernels, launched from Python.
- ``reference`` (``reference.py``): plain PyTorch. It defines what the others compute, serves every other device, and
  takes every tensor that they do not.

No implementation has a state, so a model trained with one can go on with another.

The environment variable ``ACON_MM_BACKEND`` forces one of the names: it computes all that it can, and ``reference``
the rest. An implementation that cannot run here is then an error.

Without the variable, the first activation on a CPU logs one warning where ``compiled`` is missing, with the reason and
the command that builds it. ``ACON_MM_BACKEND=reference`` chooses plain PyTorch without a warning.
"""

from __future__ import annotations

import logging
import os
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from ..compat import is_compiling
from . import cpu, gpu, operators, reference

NAMES = ("compiled", "triton", "reference")

#: the name of the implementation, by device type; ``reference`` for all others
_serving: dict[str, str] = {}


def backend_for(x: Tensor) -> str:
    """The name of the implementation that serves the device of ``x``."""
    return _serving.get(x.device.type, "reference")


def fuses(device_type: str) -> bool:
    """Whether Meta-ACON in one operator runs on this type of device."""
    return _serving.get(device_type) == "compiled"


def _start(forced: str | None) -> None:
    """Register the implementations; ``forced`` is the value of ACON_MM_BACKEND.

    Raises:
        ImportError: there is no implementation of this name, or it cannot run here.
    """
    if forced and forced not in NAMES:
        raise ImportError(f"ACON_MM_BACKEND must be one of {', '.join(NAMES)} or unset, got {forced!r}")
    if forced in (None, "", "compiled"):
        cpu.load()
        if cpu.problem() is None:
            _serving["cpu"] = "compiled"
    problem = {"compiled": cpu.problem, "triton": gpu.problem}.get(forced or "", lambda: None)()
    if problem:
        raise ImportError(f"ACON_MM_BACKEND={forced} is not possible: {problem}")
    if "cpu" not in _serving:
        operators.implement_autograd()
        if not forced:
            operators.implement(_warned(reference.forward), reference.backward, "CPU")
    if forced != "reference" and find_spec("triton") is not None:
        _start_gpu("cuda")
        if gpu.interpreted():
            _start_gpu("cpu")


def _start_gpu(device_type: str) -> None:
    if _serving.get("cpu") == "compiled" and gpu.launches_from_cpp():
        operators.library.impl("gpu_kernel", gpu.machine_code, "CompositeExplicitAutograd")
        torch.ops.acon_mm.use_gpu_kernels(device_type)
        _serving[device_type] = "compiled"
        return

    # Triton is imported when the first tensor comes, because that takes a second.
    def forward(*arguments: Any) -> Tensor:
        from . import gpu_launches

        return gpu_launches.forward(*arguments)

    def backward(*arguments: Any) -> tuple[Tensor | None, ...]:
        from . import gpu_launches

        return gpu_launches.backward(*arguments)

    operators.implement(forward, backward, device_type.upper())
    _serving[device_type] = "triton"


def _warned(forward: operators.Forward) -> operators.Forward:
    def warned(x: Tensor, *others: Any) -> Tensor:
        if cpu.is_meant_for(x, *others[:3]) and not is_compiling():  # a log cannot be compiled
            _log_missing_kernels()
        return forward(x, *others)

    return warned


@cache
def _log_missing_kernels() -> None:
    text = (
        f"ACON: activations on the CPU run in plain PyTorch, which is slower, because {cpu.problem()}. "
        "ACON_MM_BACKEND=reference chooses plain PyTorch without this warning."
    )
    try:
        from mmengine.logging import print_log
    except ImportError:  # the operators alone need PyTorch only
        logging.getLogger("acon_mm").warning(text)
    else:
        print_log(text, logger="current", level=logging.WARNING)


_start(os.environ.get("ACON_MM_BACKEND"))
