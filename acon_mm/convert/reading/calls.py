"""Calls: of activations, of layers, of methods and of functions."""

from __future__ import annotations

import ast
import inspect
from collections import ChainMap, OrderedDict
from collections.abc import Sequence
from functools import partial, reduce
from inspect import unwrap
from itertools import chain
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import torch
from torch import nn
from torch.autograd import Function

from ...compat import strict_zip
from ..activations import (
    ACTIVATION_METHODS,
    ACTIVATION_NAMES,
    ACTIVATIONS,
    WEIGHTED,
    compiled_activates,
    computed_inside,
    mentions_activation,
    same_as_function,
    same_module,
)
from ..source import UnreadableError
from ..values import Later, Value, after_function, after_layer
from .builtins_computed import COMPUTED
from .expressions import MAX_STEPS, SAFE_METHODS
from .own_functions import FOREIGN, may_activate
from .things import (
    Choice,
    Closure,
    Given,
    GivenActivation,
    Items,
    Method,
    Mode,
    OnTheFly,
    Part,
    Partial,
    Ref,
    Stop,
    Super,
    Table,
    Visit,
    is_activation_function,
)

#: methods that list the layers of a module
_CHILDREN = ("children", "named_children", "items", "keys", "values")

_EXPORTING = ("is_scripting", "is_tracing", "is_in_onnx_export", "is_compiling", "is_exporting")


class Calls(Part):
    """Reads calls."""

    def _eval_Call(self, node: ast.Call, env: ChainMap) -> Any:
        if isinstance(node.func, ast.Name) and node.func.id == "super" and "super" not in env:
            return self._super(node, env)
        callee = self._callee(node.func, env)
        args: list[Any] = []
        for each in node.args:
            value = self.eval(each.value if isinstance(each, ast.Starred) else each, env)
            parts = self._elements(value) if isinstance(each, ast.Starred) else None
            args.extend(parts if parts is not None else [value])
        kwargs = {}
        for keyword in node.keywords:
            value = self.eval(keyword.value, env)
            if keyword.arg is not None:
                kwargs[keyword.arg] = value
            elif isinstance(value, dict):
                kwargs.update({key: self._wrapped(each) for key, each in value.items() if isinstance(key, str)})
        return self._call(callee, args, kwargs, node, env)

    def _callee(self, node: ast.expr, env: ChainMap) -> Any:
        if isinstance(node, ast.Attribute):
            owner = self.eval(node.value, env)
            return (
                Method(owner, node.attr)
                if isinstance(owner, Value)
                else self._attribute(owner, self._functions[-1][0].full_name(node.attr))
            )
        return self.eval(node, env)

    def _super(self, node: ast.Call, env: ChainMap) -> Any:
        after = self.eval(node.args[0], env) if node.args else env.get("@class")
        return Super(after) if isinstance(after, type) else Value()

    def _call(self, callee: Any, args: list[Any], kwargs: dict[str, Any], node: ast.Call, env: ChainMap) -> Any:
        if isinstance(callee, Choice):
            # What one of the layers takes is not what the next one meets.
            copies = ([Later(x.resolve, x.layer) if isinstance(x, Value) else x for x in args] for _ in callee)
            outputs, activates = [], set()
            for each, xs in strict_zip(callee, copies):
                before = len(self.result.visits)
                outputs.append(self._call(each, xs, kwargs, node, env))
                activates.add(any(visit.node is node for visit in self.result.visits[before:]))
            if len(activates) > 1:
                self.result.others.add((self._functions[-1][0], self._functions[-1][0].number(node)))
            return self._join(outputs) if outputs else Value()
        if isinstance(callee, Ref):
            return self._layer(callee, args, kwargs, node)
        if isinstance(callee, (partial, Partial)):
            return self._call(
                self._wrapped(callee.func), [*callee.args, *args], {**callee.keywords, **kwargs}, node, env
            )
        if isinstance(callee, Closure):
            return self._closure(callee, args, kwargs)
        if isinstance(callee, OnTheFly):
            return self._visit(node, callee.module, None, args)
        if isinstance(callee, GivenActivation):
            return self._visit(node, None, None, args, "given")
        if isinstance(callee, Method):
            return self._method(callee, args, kwargs, node, env)
        owner = getattr(callee, "__self__", None)
        if isinstance(owner, type) and issubclass(owner, Function) and isinstance(owner.forward, FunctionType):
            # apply, which a newer PyTorch has in C++
            return self._plain_function(owner.forward, [Value(), *args], kwargs, node)
        if isinstance(callee, MethodType):
            return self._bound(callee, args, kwargs, node)
        if isinstance(callee, type):
            return self._new(callee, args, kwargs, node)
        if is_activation_function(callee):
            x = args[0] if args else kwargs.get("input", kwargs.get("x"))
            return self._visit(node, same_module(callee, args, kwargs), None, [x])
        if callee in WEIGHTED:
            return self._visit(node, None, None, args, "weighted")
        if callee in (enumerate, zip):
            return self._enumerated(callee, args)
        if isinstance(callee, BuiltinFunctionType) and callee in COMPUTED:
            return self._builtin(callee, args, kwargs)
        if isinstance(callee, FunctionType):
            return self._plain_function(callee, args, kwargs, node)
        if isinstance(callee, Value) and not isinstance(callee, Given):
            self.result.unknown.append(self._functions[-1][0].where(node))
        if callee in (eval, exec) or (isinstance(callee, torch.jit.ScriptFunction) and compiled_activates(callee)):
            return self._visit(node, None, None, [], "outside")
        call = inspect.getattr_static(type(callee), "__call__", None)
        if isinstance(call, FunctionType):
            return self._plain_function(call, [callee, *args], kwargs, node)
        if callee is reduce and len(args) > 1:
            return self._call_given(args[0], [Given(), self._element_of(args[1])], node, None)
        self._given_away(args, kwargs, node)
        return after_function(getattr(callee, "__name__", ""), args, kwargs)

    def _visit(self, node: Any, callee: Any, path: str | None, args: Sequence[Any], kind: str = "call") -> Value:
        value = args[0] if args and isinstance(args[0], Value) else Value()
        source, bound = self._functions[-1]
        loops = tuple(self._loops)
        self.result.visits.append(Visit(source, node, loops, callee, path, value, bound, kind, self._training))
        return value

    def _layer(self, ref: Ref, args: list[Any], kwargs: dict[str, Any], node: Any) -> Any:
        layer = ref.module
        x = args[0] if args else next(iter(kwargs.values()), Value())
        if isinstance(layer, ACTIVATIONS):
            return self._visit(node, layer, ref.path, [x])
        source = self._functions[-1][0]
        self.result.others.add((source, source.number(node)))
        if ref.path is None:
            self.result.loose.append((layer, source.where(node)))
        self._given_away(args, kwargs, node)
        known = after_layer(layer, x)
        return known if known is not None else self.output_of(layer, x)

    def _closure(self, closure: Closure, args: list[Any] | None, kwargs: dict[str, Any]) -> Any:
        env, spec = closure.env.new_child(), closure.node.args
        self._bind(spec, env, args, kwargs, None, None)
        names = [*spec.posonlyargs, *spec.args]
        defaults = strict_zip(
            (*names[len(names) - len(spec.defaults) :], *spec.kwonlyargs),
            (*spec.defaults, *spec.kw_defaults),
        )
        for name, default in defaults:
            if default is not None and isinstance(env[name.arg], Given):
                env[name.arg] = self.eval(default, closure.env)
        if self._steps > MAX_STEPS // 2:
            raise Stop
        self._steps += 100  # a closure may call itself
        if closure.function != self._functions[-1]:  # it was given to another function
            return self._elsewhere(*closure.function, lambda: self._inside(closure, env))
        return self._inside(closure, env)

    def _inside(self, closure: Closure, env: ChainMap) -> Any:
        is_lambda = isinstance(closure.node, ast.Lambda)
        return self.eval(closure.node.body, env) if is_lambda else self._run(closure.node.body, env)

    def _bound(self, method: MethodType, args: list[Any] | None, kwargs: dict[str, Any], node: Any) -> Any:
        owner, function = method.__self__, method.__func__
        if not isinstance(owner, nn.Module):  # an object, or the class of a classmethod
            if not isinstance(function, FunctionType):
                return Value()
            return self._plain_function(function, [owner, *(args or [])], kwargs, node)
        if not isinstance(function, FunctionType):  # the object of a decorator
            return self._function(unwrap(function), args, kwargs, bound=False)
        if function.__name__ in (*_CHILDREN, "modules", "named_modules"):
            self._iterates(owner)
        if function.__name__ in _CHILDREN and function.__module__.startswith("torch.nn.modules"):
            return self._wrapped_items(list(method()))
        if function is nn.Module.__getattr__ and args:
            return self._builtin(getattr, [self._wrapped(owner), *args], kwargs)
        if function is nn.Module.get_submodule and args and isinstance(args[0], str):
            return self._wrapped(method(args[0]))
        if (function.__module__ or "").startswith("torch.nn.modules.module"):
            return (
                self._layer(self._wrapped(owner), args or [], kwargs, node)
                if function is nn.Module.__call__
                else Value()
            )
        if owner is self.module:
            try:
                return self._function(function, args, kwargs, bound=True)
            except UnreadableError as error:
                self.result.problem = str(error)
                return Value()
        if function.__name__ == "forward":
            return self._layer(self._wrapped(owner), args or [], kwargs, node)
        self.result.entered.append((owner, function.__name__))
        return Value()

    def _wrapped_items(self, values: Any) -> Any:
        if isinstance(values, (list, tuple)):
            return Items(map(self._wrapped_items, values))
        return self._wrapped(values)

    def _method(self, method: Method, args: list[Any], kwargs: dict[str, Any], node: ast.Call, env: ChainMap) -> Any:
        owner, name = method
        if isinstance(owner, Super):
            mro = type(self.module).__mro__
            cls = next(cls for cls in mro[mro.index(owner.after) + 1 :] if name in vars(cls))
            function = vars(cls)[name]
            if function is nn.Sequential.forward:
                self.result.sequential = True
                return self.output_of(self.module, args[0] if args else Value(), function)
            if (function.__module__ or "").startswith("torch.nn.modules"):
                if computed_inside(self.module):
                    return self._visit(node, None, None, args, "outside")
                known = after_layer(self.module, args[0] if args else Value())
                return known if known is not None else Value()
            return self._of_base(function, args, kwargs, node)
        if isinstance(owner, Value):
            if name in ACTIVATION_METHODS and not args:
                return self._visit(node, same_module(ACTIVATION_METHODS[name], [owner], {}), None, [owner])
            if name in ACTIVATION_NAMES:  # of a module of functions that only a run tells
                return self._visit(node, None, None, args, "outside")
            self._given_away(args, kwargs, node)
            return after_function(name, [owner, *args], kwargs)
        if isinstance(owner, (list, dict)) and name not in SAFE_METHODS:
            return self._change(owner, name, args, kwargs)
        if not self._is_known(owner):
            return self._one_of([*owner.values()] if isinstance(owner, dict) else owner) if name == "get" else Value()
        if (isinstance(owner, str) or name in SAFE_METHODS) and not any(isinstance(each, Value) for each in args):
            try:
                return self._wrapped(getattr(owner, name)(*args))
            except Exception:
                return Value()
        self._given_away(args, kwargs, node)
        return Value()

    def _of_base(self, function: FunctionType, args: list[Any], kwargs: dict[str, Any], node: ast.Call) -> Any:
        """A call of a method that ``self.method`` may not be: ``super().method(x)``, ``Base.method(self, x)``."""
        source = self._functions[-1][0]
        if self.result.supers.setdefault((source, source.number(node)), function) is not function:
            self.result.problem = f"{source.where(node)} calls one of several methods"
        try:
            return self._function(function, args, kwargs, bound=True)
        except UnreadableError as error:
            self.result.problem = str(error)
            return Value()

    def _new(self, cls: type, args: list[Any], kwargs: dict[str, Any], node: ast.Call) -> Any:
        if cls in COMPUTED:
            return self._builtin(cls, args, kwargs)
        if cls is type and len(args) == 1:
            self._asked(args[0])
            return type(args[0].module) if isinstance(args[0], Ref) else Value()
        if cls in (enumerate, zip):
            return self._enumerated(cls, args)
        if issubclass(cls, ACTIVATIONS) and not any(isinstance(each, Value) for each in (*args, *kwargs.values())):
            try:
                return OnTheFly(cls(*args, **kwargs))
            except Exception:
                return Value()
        if issubclass(cls, nn.Module) and _names_activation(cls):
            return self._visit(node, None, None, [], "outside")
        if cls in (dict, OrderedDict) and not args:
            return self._made(Table(kwargs))
        if cls is chain and None not in (parts := [self._elements(each) for each in args]):
            return Items(each for part in parts for each in part)
        if cls is partial and args:
            return Partial(args[0], tuple(args[1:]), kwargs)
        self._given_away(args, kwargs, node)
        return Value()

    def _enumerated(self, function: Any, args: list[Any]) -> Any:
        parts = [self._elements(each) for each in args]
        if function is enumerate:
            return (
                Method(args[0], "enumerate") if not parts or parts[0] is None else list(map(Items, enumerate(parts[0])))
            )
        known = [len(each) for each in parts if each is not None]
        if not known:
            return Value()
        return [Items(each[i] if each is not None else Value() for each in parts) for i in range(min(known))]

    def _plain_function(self, function: FunctionType, args: list[Any], kwargs: dict[str, Any], node: ast.Call) -> Any:
        name, package = function.__name__, (function.__module__ or "").partition(".")[0]
        if package == "torch" and name in _EXPORTING:  # as evaluation, what is exported alone is not trained
            return Mode(False)
        if name == "checkpoint" and args:  # torch.utils.checkpoint
            return self._call_given(args[0], args[1:], node, node.args[0])
        owner = args[0] if args and isinstance(args[0], Ref) and args[0].module is self.module else None
        if owner is not None and getattr(type(self.module), name, None) is not None:  # Base.forward(self, x)
            return self._of_base(function, args[1:], kwargs, node)
        known = after_function(name, args, kwargs)
        if package in FOREIGN and function.__name__ != "<lambda>":
            if name == "forward" and any(isinstance(each, (Ref, OnTheFly)) for each in args):  # nn.ReLU.forward(act, x)
                self._visit(node, None, None, args, "outside")
            else:
                self._given_away(args, kwargs, node)
            return known
        same = same_as_function(function)
        if same is not None:
            return self._visit(node, same, None, args)
        self._given_away(args, kwargs, node)
        if function in self._foreign_done:
            return known
        self._foreign_done.add(function)
        if not may_activate(function) and not any(map(_holds_layers, (*args, *kwargs.values()))):
            return known
        try:
            # An activation that is given has been seen where it is given.
            given = [Given() if self._is_activation(each) else each for each in args]
            named = {key: Given() if self._is_activation(each) else each for key, each in kwargs.items()}
            output = self._function(function, given, named, bound=False)
            return output if isinstance(output, Value) else known
        except UnreadableError:
            if may_activate(function):
                self._visit(node, None, None, args, "outside")
        return known


def _names_activation(cls: type[nn.Module]) -> bool:
    """Whether the code of a layer that the source makes names an activation; PyTorch's own layers do not."""
    if cls.__module__.startswith("torch."):
        return False
    methods = (getattr(cls, name) for name in ("__init__", "forward"))
    return any(isinstance(each, FunctionType) and mentions_activation(each.__code__) for each in methods)


def _holds_layers(value: Any) -> bool:
    """Whether an argument is a layer, or an object of a user's class, which may hold some."""
    return isinstance(value, Ref) or type(value).__module__.partition(".")[0] not in (*FOREIGN, "acon_mm")
