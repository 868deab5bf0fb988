"""Functions and layers that are given to another function, which calls them."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from types import FunctionType, MethodType
from typing import Any

from torch import nn

from ..activations import ACTIVATIONS, same_module
from ..values import Value
from .things import Choice, Closure, Given, Items, OnTheFly, Part, Ref, is_activation_function


class Handing(Part):
    """Reads what is given to functions."""

    def _given_away(self, args: Sequence[Any], kwargs: dict[str, Any], node: Any) -> None:
        """Functions and activations that are given to another function, which will call them."""
        if not isinstance(node, ast.Call):
            return
        nodes = dict(enumerate(node.args)) if not any(isinstance(each, ast.Starred) for each in node.args) else {}
        named = {each.arg: each.value for each in node.keywords}
        for key, value in (*enumerate(args), *kwargs.items()):
            layers = value.module if isinstance(value, Ref) else None
            if isinstance(layers, (nn.ModuleList, nn.ModuleDict)) and any(
                isinstance(each, ACTIVATIONS) for each in layers.modules()
            ):
                self.result.unknown.append(self._functions[-1][0].where(node))
            if isinstance(value, (MethodType, Closure)) or self._is_activation(value):
                others = [self._element_of(each) for each in args[1:]] if key == 0 else None  # as map() does
                name = nodes.get(key) if isinstance(key, int) else named.get(str(key))
                self._call_given(value, others, node, name)

    @staticmethod
    def _is_activation(value: Any) -> bool:
        layer = isinstance(value, (Ref, OnTheFly)) and isinstance(value.module, ACTIVATIONS)
        return layer or is_activation_function(value)

    def _element_of(self, value: Any) -> Any:
        """One of several layers; anything else is unknown."""
        layers = self._elements(value) if isinstance(value, (Ref, Items)) else None
        if layers and all(isinstance(each, Ref) for each in layers):
            return Choice(layers)
        return Given()

    def _call_given(self, callee: Any, args: list[Any] | None, node: ast.Call, name: ast.expr | None) -> Any:
        if isinstance(callee, Closure):
            return self._closure(callee, args, {})
        if isinstance(callee, MethodType):
            return self._bound(callee, args, {}, node)
        kind = "hidden" if name is None else "name"
        if isinstance(callee, (Ref, OnTheFly)) and isinstance(callee.module, ACTIVATIONS):
            return self._visit(name or node, callee.module, getattr(callee, "path", None), args or [], kind)
        if isinstance(callee, Ref) and args is not None:
            return self._layer(callee, args, {}, node)
        if is_activation_function(callee):
            return self._visit(name or node, same_module(callee, [Value()], {}), None, args or [], kind)
        if isinstance(callee, FunctionType) and args is not None:
            return self._plain_function(callee, args, {}, node)
        return Value()
