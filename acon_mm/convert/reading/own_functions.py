"""Functions: where the classes of a module keep them, and whether one may activate."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Any

from torch import nn

from ..activations import mentions_activation
from .things import is_activation_function

#: functions of these packages contain no activations of a network
FOREIGN = ("torch", "numpy", "builtins", "math", "typing", "mmengine", "mmcv", "collections", "functools", "itertools")


def activating_functions(cls: type) -> Iterator[tuple[str, FunctionType]]:
    """Methods apart from ``forward``, and functions inside of properties and the like, that name an activation.

    Not those that build the module: ``__init__``, and what it calls.
    """
    building, found = {"forward"}, ["__init__"]
    while found:
        name = found.pop()
        if name not in building and (code := getattr(getattr(cls, name, None), "__code__", None)):
            building.add(name)
            found += _names(code)
    for base in cls.__mro__:
        if not _is_foreign(base):
            for name, value in vars(base).items():
                if name not in building:
                    yield from ((name, each) for each in _functions(value) if mentions_activation(each.__code__))


def _functions(value: Any) -> Iterator[FunctionType]:
    registry = getattr(getattr(value, "dispatcher", None), "registry", {})  # of singledispatchmethod
    inner = (getattr(value, name, None) for name in ("fget", "__func__", "func"))
    return (
        each for each in (value, *inner, *registry.values()) if isinstance(each, FunctionType) and not _is_foreign(each)
    )


def _is_foreign(value: type | FunctionType) -> bool:
    return (value.__module__ or "").partition(".")[0] in FOREIGN


@lru_cache(maxsize=4096)
def may_activate(function: FunctionType) -> bool:
    """Whether a function names an activation or a module, or names a function that does."""
    return _may_activate(function, set())


def _may_activate(value: Any, seen: set[int]) -> bool:
    if isinstance(value, nn.Module) or is_activation_function(value):
        return True
    if isinstance(value, type):
        return issubclass(value, nn.Module)
    if id(value) in seen:
        return False
    seen.add(id(value))
    if isinstance(value, (dict, list, tuple)):
        return any(_may_activate(each, seen) for each in (value.values() if isinstance(value, dict) else value))
    if not isinstance(value, FunctionType) or _is_foreign(value):
        return False
    cells = (each.cell_contents for each in value.__closure__ or () if _is_filled(each))
    named = (value.__globals__.get(name) for name in _names(value.__code__))
    used = (*cells, *named, *(value.__defaults__ or ()))
    return mentions_activation(value.__code__) or any(_may_activate(each, seen) for each in used)


def _names(code: CodeType) -> set[str]:
    return {*code.co_names}.union(*(_names(each) for each in code.co_consts if isinstance(each, CodeType)))


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False
