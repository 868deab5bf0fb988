"""PyTorch's list of types that a checkpoint may name; empty where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from acon_mm.compat import TAKES_ALLOWED_TYPES

if TAKES_ALLOWED_TYPES:
    from torch.serialization import add_safe_globals, clear_safe_globals, get_safe_globals, safe_globals
else:
    add_safe_globals = clear_safe_globals = safe_globals = lambda *_: None

    def get_safe_globals() -> list[Any]:
        return []


__all__ = ["add_safe_globals", "clear_safe_globals", "get_safe_globals", "kept_list", "safe_globals"]


@contextmanager
def kept_list() -> Iterator[None]:
    """Afterwards the list is as it was."""
    before = get_safe_globals()
    try:
        yield
    finally:
        clear_safe_globals()
        add_safe_globals(before)
