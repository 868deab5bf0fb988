"""What only newer versions of Python and PyTorch have, found by feature: the one place that tells them apart.

The floor is Python 3.9 and torch 2.0 (``pyproject.toml``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import torch

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


_compiler = getattr(torch, "compiler", None)  # since 2.1

#: whether ``torch.compile`` traces this call; public since 2.3
is_compiling: Callable[[], bool] = getattr(_compiler, "is_compiling", None) or torch._utils.is_compiling

#: whether ``torch.export`` traces this call. Before 2.7, PyTorch does not tell.
is_exporting: Callable[[], bool] = getattr(_compiler, "is_exporting", _never)

#: a context in which operators are called below autograd; its name is of 2.1
BelowAutograd: Any = getattr(torch._C, "_AutoDispatchBelowADInplaceOrView", None) or torch._C._AutoDispatchBelowAutograd


def define(library: torch.library.Library, schema: str) -> None:
    """Declare an operator. Since 2.2 a tag promises that ``torch.compile`` may trust what it declares."""
    tag = getattr(torch.Tag, "pt2_compliant_tag", None)
    library.define(schema, **({} if tag is None else {"tags": (tag,)}))


#: whether ``torch.load`` takes a list of types that a file may name, and their names there (2.6)
TAKES_ALLOWED_TYPES = hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint")
