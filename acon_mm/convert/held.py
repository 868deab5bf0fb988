"""Methods that attributes hold, as ``self.steps = [self.first, self.second]`` or ``self.forward = self.other``.

An attribute keeps the code that it has got. When a class changes, such methods are taken from the new class.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial, partialmethod
from inspect import getattr_static, unwrap
from itertools import islice
from types import FunctionType, MethodType
from typing import Any

from torch import nn

#: how deep, and how far, lists and dicts are looked into
_DEPTH, _LENGTH = 6, 256


def owners_of_held(holder: nn.Module) -> set[nn.Module]:
    """The modules whose methods the attributes of a module hold."""
    return {each.__self__ for each in _inside(vars(holder)) if _is_method(each)}


def held_for_good(module: nn.Module) -> set[FunctionType]:
    """The functions that a module or its class holds in a way that :func:`bind_again` cannot change."""
    found = (each for each in _inside(vars(module)) if not (_is_method(each) and _is_own(each)))
    of_class = (vars(base).values() for base in type(module).__mro__ if not base.__module__.startswith("torch."))
    fixed = (each for values in of_class for each in values if isinstance(each, (partial, partialmethod)))
    functions = (getattr(each, "__func__", getattr(each, "func", each)) for each in (*found, *fixed))
    return {unwrap(each) for each in functions if isinstance(each, FunctionType)}


def bind_again(holder: nn.Module, module: nn.Module) -> None:
    """Give the attributes of ``holder`` the methods of the present class of ``module``. Nothing in here can fail."""
    _bind(vars(holder), module, _DEPTH)


def _bind(value: Any, module: nn.Module, depth: int) -> Any:
    if _is_method(value):
        return getattr(module, value.__func__.__name__).__get__(module) if value.__self__ is module else value
    if depth and isinstance(value, (dict, list)):
        for key, each in list(value.items() if isinstance(value, dict) else enumerate(value)):
            new = _bind(each, module, depth - 1)
            if new is not each:
                value[key] = new
    if depth and type(value) is tuple:
        new = tuple(_bind(each, module, depth - 1) for each in value)
        return value if all(one is other for one, other in zip(new, value)) else new
    return value


def _inside(value: Any, depth: int = _DEPTH) -> Iterator[Any]:
    """The methods, functions and partials in an attribute."""
    if isinstance(value, (FunctionType, MethodType, partial)):
        yield value
    elif depth and isinstance(value, (dict, list, tuple)):
        for each in islice(value.values() if isinstance(value, dict) else value, _LENGTH):
            yield from _inside(each, depth - 1)


def _is_method(value: Any) -> bool:
    return isinstance(value, MethodType) and isinstance(value.__self__, nn.Module)


def _is_own(method: MethodType) -> bool:
    """Whether the class of a method's module has it under its name."""
    return getattr_static(type(method.__self__), method.__func__.__name__, None) is method.__func__
