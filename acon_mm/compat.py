"""What only newer versions of Python and PyTorch have, found by feature: the one place that tells them apart.

The floor is Python 3.9 and torch 2.0 (``pyproject.toml``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    strict_zip = zip
else:

    def strict_zip(*iterables: Any) -> Iterator[tuple]:
        """``zip(..., strict=True)`` of Python 3.10.

        Raises:
            ValueError: the iterables have different lengths.
        """
        missing = object()
        for values in zip_longest(*iterables, fillvalue=missing):
            if any(value is missing for value in values):
                raise ValueError("strict_zip() takes iterables of the same length")
            yield values


@contextmanager
def chdir(path: str | os.PathLike) -> Iterator[None]:
    """``contextlib.chdir`` of Python 3.11."""
    before = os.getcwd()
    os.chdir(path)
    try:
        yield
    finally:
        os.chdir(before)


def _never() -> bool:
    return False


_compiler: Any = getattr(torch, "compiler", None)  # since 2.1

#: whether ``torch.compile`` traces this call; public since 2.3
is_compiling: Callable[[], bool] = getattr(_compiler, "is_compiling", None) or torch._utils.is_compiling

#: whether ``torch.export`` traces this call. Before 2.7, PyTorch does not tell.
is_exporting: Callable[[], bool] = getattr(_compiler, "is_exporting", _never)

_guard: Any = getattr(torch._C, "_AutoDispatchBelowADInplaceOrView", None) or torch._C._AutoDispatchBelowAutograd


@contextmanager
def _held() -> Iterator[None]:
    guard = _guard()
    try:
        yield
    finally:
        del guard


#: a context in which operators are called below autograd; in 2.0 it is one as long as the object is there
BelowAutograd: Any = _guard if hasattr(_guard, "__enter__") else _held


def define(library: torch.library.Library, schema: str) -> None:
    """Declare an operator. Since 2.2 a tag promises that ``torch.compile`` may trust what it declares."""
    tag = getattr(torch.Tag, "pt2_compliant_tag", None)
    library.define(schema, **({} if tag is None else {"tags": (tag,)}))


#: whether ``torch.load`` takes a list of types that a file may name, and their names there (2.6)
TAKES_ALLOWED_TYPES = hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint")


def reset_compiler() -> None:
    """Forget what ``torch.compile`` has compiled."""
    if hasattr(_compiler, "reset"):
        _compiler.reset()
    else:
        torch._dynamo.reset()


def compiler_stance(stance: str) -> AbstractContextManager[Any]:
    """``torch.compiler.set_stance`` of 2.6; older compilers always compile again where they must."""
    return _compiler.set_stance(stance) if hasattr(_compiler, "set_stance") else nullcontext()


def cpu_capability() -> str:
    """The instruction set that PyTorch's kernels use, such as ``AVX2``. Its own function is of 2.1."""
    found = re.search(r"CPU capability usage: (.+)", torch.__config__.show())
    return found[1] if found else "unknown"


def event_start(event: Any) -> int:
    """When an event of PyTorch's profiler began. Before 2.4 the profiler counts in microseconds."""
    return event.start_ns() if hasattr(event, "start_ns") else event.start_us()


class _FlopCounterMode(TorchDispatchMode):
    """The same for torch 2.0, for convolutions and matrix products."""

    def __init__(self, display: bool = True) -> None:
        super().__init__()
        self._total = 0

    def get_total_flops(self) -> int:
        return self._total

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        aten, called = torch.ops.aten, function._overloadpacket
        if called is aten.convolution:
            transposed = args[6]
            self._total += 2 * (args[0] if transposed else result).numel() * args[1][0].numel()
        elif called in (aten.mm, aten.addmm, aten.bmm, aten.baddbmm):
            self._total += 2 * result.numel() * args[-1].shape[-2]
        return result


try:
    from torch.utils.flop_counter import FlopCounterMode
except ImportError:
    FlopCounterMode = _FlopCounterMode  # type: ignore[assignment, misc]
