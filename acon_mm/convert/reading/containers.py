"""Lists and dicts, which hold layers, functions and tensors: what is in them, and what the source does to them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

from torch import nn

from ..rewrite import new_names
from ..values import Stored, Value
from .things import Choice, Closure, Items, Method, OnTheFly, Part, Ref, Super, Table, join_path

#: how many elements are looked at, and how many of them in a loop that is not over layers
MAX_ELEMENTS, MAX_ITERATIONS = 4096, 256

_CHANGES = ("__setitem__", "append", "insert", "extend", "pop", "reverse", "clear", "update", "setdefault")


class Containers(Part):
    """Reads what is in lists and dicts."""

    def _iterates(self, layers: Any) -> None:
        """Note that the source calls children of the module in a way that would call new ones, too."""
        if layers is self.module:
            self.result.iterated = self._functions[-1][0].name

    def _elements(self, value: Any) -> list[Any] | None:
        """The elements of a sequence; None if only a run tells."""
        if isinstance(value, Ref):
            layers = value.module
            if isinstance(layers, (nn.ModuleList, nn.Sequential)):
                named = (
                    (name, child) for name, child in layers._modules.items() if name not in new_names(type(layers))
                )
                return [None if child is None else Ref(child, join_path(value.path, name)) for name, child in named]
            if isinstance(layers, nn.ParameterList):
                return [Stored()] * len(layers)
            self._iterates(layers)
            return list(layers) if isinstance(layers, nn.ModuleDict) else None
        if isinstance(value, (Value, Method, Choice, Super, Closure, OnTheFly, str)) or not self._is_known(value):
            return None
        if isinstance(value, dict):
            return list(value)
        if isinstance(value, (list, tuple, range, set, frozenset)) or type(value).__name__ in (
            "dict_keys",
            "dict_values",
            "dict_items",
        ):
            return [self._wrapped(each) for each in islice(value, MAX_ELEMENTS)]
        return None

    def _made(self, container: Any) -> Any:
        """A container that the source makes here."""
        container.level = self._level
        return container

    def _is_known(self, container: Any) -> bool:
        """Whether reading knows what is in a list or dict."""
        return getattr(container, "known", True) and id(container) not in self._changed

    def _change(self, owner: Any, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """The result of a method of a list or dict, which may change it."""
        if not isinstance(owner, (Items, Table)):  # it belongs to the module
            self._changed.add(id(owner))
            return Value()
        by_key = name in ("__setitem__", "insert", "pop", "setdefault") and args and isinstance(args[0], Value)
        if name == "extend":
            parts = self._elements(args[0])
            owner.known &= parts is not None
            args = [[Value()] if parts is None else parts]
        others = all(isinstance(each, dict) for each in args) if name == "update" else True
        result: Any = Value()
        owner.known &= name in _CHANGES and not by_key and others and owner.level >= self._level
        if name in _CHANGES and not by_key:
            try:
                result = getattr(owner, name)(*args, **kwargs)
            except Exception:
                owner.known = False
        if name == "pop" and not owner.known:
            return self._one_of([*owner.values()] if isinstance(owner, dict) else owner)
        return result

    def _one_of(self, options: Sequence[Any]) -> Any:
        """One of the elements of a container; only a run tells which."""
        found = [self._wrapped(each) for each in options]
        return self._join(found) if found else Value()
