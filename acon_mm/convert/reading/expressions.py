"""Expressions: what they name, and what they compute from what is known."""

from __future__ import annotations

import ast
import builtins
from collections import ChainMap
from collections.abc import Callable
from enum import Enum
from functools import singledispatchmethod
from types import FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn

from ...compat import strict_zip
from ..activations import ACTIVATIONS, mentions_activation
from ..values import Stored, Value, after_function
from .things import Choice, Closure, Items, Method, Mode, OnTheFly, Part, Ref, Stop, Super, Table, Text, join_path

#: a module that takes more is not read to the end
MAX_STEPS = 200_000
SAFE_METHODS = frozenset(
    (
        *("get", "items", "keys", "values", "format", "lower", "upper", "startswith", "endswith", "split"),
        *("join", "index", "count"),
    )
)

_PLAIN = (int, float, str, bool, type(None), list, tuple, dict, range, Enum, type)
_OPERATORS = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.In: "in",
    ast.NotIn: "not in",
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.FloorDiv: "//",
    ast.Mod: "%",
    ast.BitAnd: "&",
    ast.BitOr: "|",
    ast.BitXor: "^",
    ast.RShift: ">>",
    ast.LShift: "<<",
    ast.Pow: "**",
    ast.MatMult: "@",
}


class Expressions(Part):
    """Reads expressions."""

    def eval(self, node: ast.expr, env: ChainMap) -> Any:
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise Stop
        handle = getattr(self, f"_eval_{type(node).__name__}", None)
        if handle is not None:
            return handle(node, env)
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.eval(child, env)
        return Value()

    def _eval_Constant(self, node: ast.Constant, env: ChainMap) -> Any:
        return node.value

    def _eval_Name(self, node: ast.Name, env: ChainMap) -> Any:
        if node.id in env:
            return self._wrapped(env[node.id])
        if node.id in env["@globals"]:
            return self._wrapped(env["@globals"][node.id])
        return getattr(builtins, node.id, Value())

    def _eval_NamedExpr(self, node: ast.NamedExpr, env: ChainMap) -> Any:
        value = self.eval(node.value, env)
        self._assign(node.target, value, env)
        return value

    def _eval_Tuple(self, node: Any, env: ChainMap) -> Any:
        found = Items()
        for each in node.elts:
            value = self.eval(each.value if isinstance(each, ast.Starred) else each, env)
            parts = self._elements(value) if isinstance(each, ast.Starred) else [value]
            found.extend(parts if parts is not None else [Value()])
        return found

    def _eval_List(self, node: ast.List, env: ChainMap) -> Any:
        return self._made(self._eval_Tuple(node, env))

    def _eval_Dict(self, node: ast.Dict, env: ChainMap) -> Any:
        keys = [self.eval(key, env) if key is not None else Value() for key in node.keys]
        values = [self.eval(value, env) for value in node.values]
        known = all(isinstance(key, _PLAIN) for key in keys)
        return self._made(Table(strict_zip(keys, values))) if known else self._one_of(values)

    def _eval_JoinedStr(self, node: ast.JoinedStr, env: ChainMap) -> Any:
        parts, known = [], True
        for each in node.values:
            value = self.eval(each.value, env) if isinstance(each, ast.FormattedValue) else each.value  # type: ignore
            if not isinstance(value, (str, int)) or (isinstance(each, ast.FormattedValue) and each.format_spec):
                known, value = False, "*"
            parts.append(str(value))
        return "".join(parts) if known else Text("".join(parts))

    def _eval_Attribute(self, node: ast.Attribute, env: ChainMap) -> Any:
        return self._attribute(self.eval(node.value, env), self._functions[-1][0].full_name(node.attr))

    def _attribute(self, owner: Any, name: str) -> Any:
        if isinstance(owner, Choice):
            return self._join([self._attribute(each, name) for each in owner])
        if isinstance(owner, Value):
            return owner if name in ("data", "real", "features") else Value()
        if isinstance(owner, Super):
            mro = type(self.module).__mro__
            for cls in mro[mro.index(owner.after) + 1 :] if owner.after in mro else ():
                if name in vars(cls):
                    return Method(owner, name) if isinstance(vars(cls)[name], FunctionType) else Value()
            return Value()
        if isinstance(owner, Ref):
            module = owner.module
            if module is self.module and (known := self._descriptor(name)) is not None:
                return known
            if isinstance(module, ACTIVATIONS) and name not in ("forward", "__call__"):
                self._asked(owner)
            if name == "_modules":
                self._iterates(module)
            if module is self.module and name in self.assigned:
                return self.assigned[name]
            if name == "training":
                return Mode(True)
            if name in module._modules:
                child = module._modules[name]
                return None if child is None else Ref(child, join_path(owner.path, name))
        elif isinstance(owner, (Method, Closure, OnTheFly)):
            return Value()
        elif isinstance(owner, dict) and name in owner and not hasattr(dict, name):  # ConfigDict, easydict
            return self._wrapped(owner[name])
        elif not isinstance(owner, (ModuleType, type)) and (
            name in SAFE_METHODS or isinstance(owner, (Items, dict, list, tuple, str))
        ):
            return Method(owner, name)
        try:
            return self._wrapped(getattr(owner.module if isinstance(owner, Ref) else owner, name))
        except Exception:
            return Value()

    def _asked(self, value: Any) -> None:
        """Note that the source depends on what an activation is."""
        if isinstance(value, Ref) and isinstance(value.module, ACTIVATIONS):
            self.result.asked[value.path] = self._functions[-1][0].name

    def _descriptor(self, name: str) -> Any:
        """What a property computes that activates; an unknown value for a ``singledispatchmethod``; None for others."""
        found = next((vars(base)[name] for base in type(self.module).__mro__ if name in vars(base)), None)
        getter = getattr(found, "fget", None)
        if isinstance(getter, FunctionType) and mentions_activation(getter.__code__):
            return self._bound(MethodType(getter, self.module), [], {}, None)
        return Value() if isinstance(found, singledispatchmethod) else None

    def _wrapped(self, value: Any) -> Any:
        if isinstance(value, nn.Module):
            return Ref(value, self._path_of(value))
        return Stored() if isinstance(value, Tensor) else value

    def _path_of(self, module: nn.Module) -> str | None:
        if not self._paths:
            self._paths.update((id(each), name) for name, each in self.module.named_modules())
        return self._paths.get(id(module))

    def _eval_Subscript(self, node: ast.Subscript, env: ChainMap) -> Any:
        owner, index = self.eval(node.value, env), self.eval(node.slice, env)
        if isinstance(owner, Value):
            return Value(layer=owner.layer)
        if isinstance(owner, Choice):
            return Choice(each for option in owner for each in (self._elements(option) or ()))
        if isinstance(owner, Ref):
            layers = owner.module
            if isinstance(layers, (nn.ParameterList, nn.ParameterDict)):
                return Stored()
            if isinstance(layers, nn.ModuleDict):
                parts = {name: Ref(child, join_path(owner.path, name)) for name, child in layers.items()}
                return parts[index] if index in parts else Choice(parts.values())
            if isinstance(index, slice):
                self._iterates(layers)
            owner = self._elements(owner)
            if owner is None:
                return Value()
            if isinstance(index, Value):
                return Choice(owner)
        if isinstance(owner, (list, tuple, dict)) and (isinstance(index, Value) or not self._is_known(owner)):
            return self._one_of([*owner.values()] if isinstance(owner, dict) else owner)
        try:
            found = owner[index]
            is_list = isinstance(index, slice) and not isinstance(owner, str)
            return Items(map(self._wrapped, found)) if is_list else self._wrapped(found)
        except Exception:
            return Value()

    def _eval_Slice(self, node: ast.Slice, env: ChainMap) -> Any:
        parts = [self.eval(each, env) if each is not None else None for each in (node.lower, node.upper, node.step)]
        return slice(*parts) if all(each is None or isinstance(each, int) for each in parts) else Value()

    def _eval_BoolOp(self, node: ast.BoolOp, env: ChainMap) -> Any:
        ends = isinstance(node.op, ast.Or)
        options: list[Any] = []
        for each in node.values:
            options.append(self.eval(each, env))
            truth = self._truth(options[-1])
            if truth is ends:
                found = self._join(options)
                return found if len(options) == 1 or isinstance(found, Choice) else ends
            if truth is not None and each is not node.values[-1]:
                options.pop()
        return self._join(options)

    def _eval_UnaryOp(self, node: ast.UnaryOp, env: ChainMap) -> Any:
        value = self.eval(node.operand, env)
        if isinstance(value, Mode) and isinstance(node.op, ast.Not):
            return Mode(not value.holds)
        if isinstance(node.op, ast.Not):
            truth = self._truth(value)
            return Value() if truth is None else not truth
        if isinstance(value, Value):
            return value
        if isinstance(node.op, ast.Invert) and isinstance(value, int):
            return ~value
        return -value if isinstance(node.op, ast.USub) and isinstance(value, (int, float)) else Value()

    def _truth(self, value: Any) -> bool | None:
        if isinstance(value, (Value, Choice, Method)) or not self._is_known(value):
            return None
        if isinstance(value, (Ref, Closure, OnTheFly, Super)):
            return True
        try:
            return bool(value)
        except Exception:
            return None

    def _eval_Compare(self, node: ast.Compare, env: ChainMap) -> Any:
        left, *rest = (self.eval(each, env) for each in (node.left, *node.comparators))
        found = [self._compared(*each) for each in strict_zip((left, *rest[:-1]), node.ops, rest)]
        if any(each is False for each in found):  # 0 < x < 2
            return False
        return found[0] if len(found) == 1 else all(found) if not any(isinstance(e, Value) for e in found) else Value()

    def _compared(self, left: Any, op: ast.cmpop, right: Any) -> Any:
        if any(isinstance(each, (Value, Choice, Method)) or not self._is_known(each) for each in (left, right)):
            return Value()
        if isinstance(op, (ast.Is, ast.IsNot)):
            one, other = (each.module if isinstance(each, Ref) else each for each in (left, right))
            return (one is other) is isinstance(op, ast.Is)
        return self._computed(f"a {_OPERATORS[type(op)]} b", left, right)

    def _computed(self, expression: str, a: Any, b: Any) -> Any:
        if not isinstance(a, _PLAIN) or not isinstance(b, _PLAIN) or (isinstance(a, Items) and "in" not in expression):
            return Value()
        try:
            return eval(expression, {"a": a, "b": b})
        except Exception:
            return Value()

    def _eval_BinOp(self, node: ast.BinOp, env: ChainMap) -> Any:
        left, right = self.eval(node.left, env), self.eval(node.right, env)
        return self._binary(node.op, left, right)

    def _binary(self, op: ast.operator, left: Any, right: Any) -> Any:
        if isinstance(left, (Items, Ref)) and isinstance(op, ast.Add):
            parts = self._elements(left), self._elements(right)
            return self._made(Items([*parts[0], *parts[1]])) if None not in parts else Value()
        if isinstance(left, Value) or isinstance(right, Value):
            plain = isinstance(op, (ast.Add, ast.Sub, ast.Mult, ast.Div))
            numbers = [each for each in (left, right) if isinstance(each, (int, float))]
            if plain and numbers:
                return left if isinstance(left, Value) else right
            return after_function("add", (left, right), {}) if plain else Value()
        small = all(isinstance(each, (int, float)) and abs(each) < 64 for each in (left, right))
        if isinstance(op, (ast.Pow, ast.LShift)) and not small:
            return Value()
        return self._computed(f"a {_OPERATORS[type(op)]} b", left, right)

    def _eval_IfExp(self, node: ast.IfExp, env: ChainMap) -> Any:
        value = self.eval(node.test, env)
        test = self._truth(value)
        if test is not None:
            return self.eval(node.body if test else node.orelse, env)
        found = []
        for branch, holds in ((node.body, True), (node.orelse, False)):
            with self._in_mode(value, holds):
                found.append(self.eval(branch, env))
        return self._join(found)

    def _eval_Lambda(self, node: ast.Lambda, env: ChainMap) -> Any:
        return Closure(node, env, self._functions[-1])

    def _eval_ListComp(self, node: Any, env: ChainMap) -> Any:
        found, inner = Items(), env.new_child()
        known = self._generators(node.generators, node.elt, inner, lambda: found.append(self.eval(node.elt, inner)))
        return self._made(found) if known else Value()

    _eval_GeneratorExp = _eval_SetComp = _eval_ListComp

    def _eval_DictComp(self, node: ast.DictComp, env: ChainMap) -> Any:
        inner = env.new_child()
        self._generators(node.generators, node.value, inner, lambda: self.eval(node.value, inner))
        return Value()

    def _generators(self, generators: list, inside: Any, env: ChainMap, body: Callable[[], Any]) -> bool:
        if not generators:
            body()
            return True
        first, *others = generators
        over = self.eval(first.iter, env)
        known = self._elements(over) is not None

        def each() -> None:
            nonlocal known
            tests = [self._truth(self.eval(test, env)) for test in first.ifs]
            if False in tests:
                return
            known &= None not in tests
            known &= self._generators(others, inside, env, body)

        self._loop(first, first.target, over, env, each, [inside, *first.ifs, *(each.iter for each in others)])
        return known
