"""Reads the methods of a module."""

from __future__ import annotations

import ast
from collections import ChainMap
from collections.abc import Callable, Iterable, Sequence
from types import FunctionType
from typing import Any

import torch
from torch import nn

from ...compat import strict_zip
from ..activations import ACTIVATIONS, mentions_activation
from ..source import Source, UnreadableError
from ..values import Later, Value, after_layer, joined
from .builtins_computed import BuiltinsComputed
from .calls import Calls
from .containers import Containers
from .expressions import Expressions
from .handing import Handing
from .overwriting import Overwriting
from .statements import Statements
from .things import (
    Break,
    Choice,
    Closure,
    Given,
    GivenActivation,
    Items,
    OnTheFly,
    Partial,
    Reading,
    Ref,
    Stop,
    is_activation_function,
)


def read(module: nn.Module, methods: Sequence[str] = ("forward",)) -> Reading:
    """Read methods of a module."""
    reader = _Reader(module)
    for name in methods:
        reader.read_method(name)
    if reader.assigned:  # the next call finds other values than the first
        reader = _Reader(module, assigned=reader.assigned)
        for name in methods:
            reader.read_method(name)
    return reader.result


class _Reader(Statements, Expressions, Calls, BuiltinsComputed, Containers, Handing, Overwriting):
    """Reads one module."""

    def __init__(self, module: nn.Module, depth: int = 0, assigned: Iterable[str] = ()) -> None:
        self.module = module
        self.depth = depth
        self.result = Reading()
        self.assigned: dict[str, Any] = {name: Value() for name in assigned}  #: attributes that the source changes
        self._loops: list[tuple[Any, int]] = []
        self._functions: list[tuple[Source, bool]] = []
        self._returned: list[list[Any]] = []
        self._steps = 0
        self._level = 0  #: how many conditions and loops around the source that is read only a run can decide
        self._training: bool | None = None  #: whether only training reaches what is read, or only evaluation
        self._changed: set[int] = set()  #: lists and dicts of the module that the source changes, by their id
        self._paths: dict[int, str] = {}
        self._foreign_done: set[FunctionType] = set()

    def read_method(self, name: str) -> None:
        method = getattr(self.module, name, None)
        function = getattr(method, "__func__", None)
        if not isinstance(function, FunctionType):
            self.result.problem = f"the source of {type(self.module).__qualname__}.{name} cannot be read"
            return
        try:
            output = self._function(function, None, {}, bound=True)
            if name == "forward" and isinstance(output, Value):
                self.result.output = output
        except UnreadableError as error:
            self.result.problem = str(error)
        except (Stop, RecursionError):
            self.result.problem = f"{type(self.module).__qualname__}.{name} is too large to read"

    def _function(self, function: FunctionType, args: Sequence[Any] | None, kwargs: dict, bound: bool) -> Any:
        """Read a function that is called with these arguments; None: with unknown ones."""
        source = Source.of(function)
        self.result.functions.add(source.function)
        if any(each is source for each, _ in self._functions):  # recursion
            return Value()
        env: ChainMap = ChainMap({})
        env["@globals"] = source.function.__globals__
        free, cells = source.function.__code__.co_freevars, source.function.__closure__ or ()
        for name, cell in strict_zip(free, cells):
            try:
                env[name] = cell.cell_contents
            except ValueError:
                continue
        env["@class"] = env.get("__class__")
        self._bind(source.definition.args, env, args, kwargs, function, Ref(self.module, "") if bound else None)
        return self._elsewhere(source, bound, lambda: self._body(source, function, env))

    def _elsewhere(self, source: Source, bound: bool, read_it: Callable[[], Any]) -> Any:
        """Read in another function, which cannot count the iterations of the loops around it."""
        self._functions.append((source, bound))
        loops, self._loops = self._loops, []
        try:
            return read_it()
        finally:
            self._functions.pop()
            self._loops = loops

    def _body(self, source: Source, function: Any, env: ChainMap) -> Any:
        while (inner := getattr(function, "__wrapped__", None)) is not None:
            if mentions_activation(function.__code__):
                self._visit(source.definition, None, None, [], "decorator")
            function = inner
        return self._run(source.definition.body, env)

    def _bind(self, spec: ast.arguments, env: ChainMap, args: Any, kwargs: dict, function: Any, owner: Any) -> None:
        names = [each.arg for each in (*spec.posonlyargs, *spec.args)]
        for name in (*names, *(each.arg for each in spec.kwonlyargs)):
            env[name] = Given()
        for star in filter(None, (spec.vararg, spec.kwarg)):
            env[star.arg] = Given()
        defaults = getattr(function, "__defaults__", None) or ()
        named = dict(strict_zip(names[len(names) - len(defaults) :], defaults))
        for name, value in (named | (getattr(function, "__kwdefaults__", None) or {})).items():
            if args is not None:
                env[name] = self._wrapped(value)
            elif is_activation_function(value) or isinstance(value, ACTIVATIONS):
                env[name] = GivenActivation(value)
        given = [owner] if owner is not None else []
        given += [*args] if args is not None else []
        for name, value in zip(names, given):
            env[name] = value
        if spec.vararg and args is not None:
            env[spec.vararg.arg] = Items(given[len(names) :])
        for name, value in kwargs.items():
            env[name] = value

    def _run(self, body: list[ast.stmt], env: ChainMap) -> Any:
        self._returned.append([])
        falls_through, training = True, self._training
        try:
            falls_through = self._block(body, env)
        except Break:
            pass
        finally:
            returned, self._training = self._returned.pop(), training
        if not returned:
            return None
        return self._join([*returned, None] if falls_through and len(returned) > 1 else returned)

    def _join(self, options: Sequence[Any]) -> Any:
        first = options[0]
        if all(each is first for each in options[1:]):
            return first
        if all(isinstance(each, Value) for each in options):
            return joined(options)
        flat = [each for option in options for each in (option if isinstance(option, Choice) else (option,))]
        if any(map(_is_called, flat)):
            return Choice(each for each in flat if _is_called(each) or isinstance(each, Value))
        try:
            same = all(type(each) is type(first) and each == first for each in options)
        except Exception:
            same = False
        return first if same else Value()

    # Layers

    def output_of(self, layer: nn.Module, x: Any, forward: Any = None) -> Value:
        """The output of a module, read from its layers or its forward when it is asked for."""
        if self.depth > 8 or isinstance(layer, torch.jit.ScriptModule):
            return Value()
        if (forward or type(layer).forward) is nn.Sequential.forward:
            value = x if isinstance(x, Value) else Value()
            for child in layer.children():
                if not isinstance(child, ACTIVATIONS):
                    known = after_layer(child, value)
                    value = known if known is not None else self.output_of(child, value)
            return value

        def compute() -> Any:
            reader = _Reader(layer, self.depth + 1)
            reader.read_method("forward")
            return reader.result.output.resolve()

        return Later(compute)


def _is_called(value: Any) -> bool:
    return isinstance(value, (Ref, OnTheFly, Closure, Partial)) or callable(value)
