"""Statements: assignments, conditions and loops."""

from __future__ import annotations

import ast
import sys
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import Enum
from itertools import chain
from typing import Any

from torch import nn

from ..values import Value, Varying
from .containers import MAX_ITERATIONS
from .overwriting import INPUTS
from .things import (
    Break,
    Choice,
    Closure,
    Items,
    Method,
    Mode,
    Part,
    Ref,
    is_activation_function,
)

_PLAIN = (str, int, float, type(None))
_NO_GRADIENTS = ("no_grad()", "inference_mode()")


class Statements(Part):
    """Reads statements."""

    def _block(self, body: Sequence[ast.stmt], env: ChainMap) -> bool:
        """Read statements; False if what follows is not reached."""
        for statement in body:
            first, goes_on = len(self.result.visits), True
            handle = getattr(self, f"_do_{type(statement).__name__}", None)
            if handle is not None:
                goes_on = handle(statement, env) is not False
            else:
                for child in ast.iter_child_nodes(statement):
                    if isinstance(child, ast.expr):
                        self.eval(child, env)
            if not hasattr(statement, "body"):
                self._overwrite(statement, first, env)
            if not goes_on:
                return False
        return True

    def _do_Return(self, node: ast.Return, env: ChainMap) -> bool:
        self._returned[-1].append(self.eval(node.value, env) if node.value else None)
        return False

    def _do_Raise(self, node: ast.Raise, env: ChainMap) -> bool:
        return False

    def _do_Continue(self, node: ast.Continue, env: ChainMap) -> bool:
        return False

    def _do_Break(self, node: ast.Break, env: ChainMap) -> bool:
        raise Break

    def _do_Assign(self, node: ast.Assign, env: ChainMap) -> None:
        value = self.eval(node.value, env)
        for target in node.targets:
            self._assign(target, value, env)

    def _do_AnnAssign(self, node: ast.AnnAssign, env: ChainMap) -> None:
        if node.value is not None:
            self._assign(node.target, self.eval(node.value, env), env)

    def _do_AugAssign(self, node: ast.AugAssign, env: ChainMap) -> None:
        load = ast.copy_location(ast.parse(ast.unparse(node.target), mode="eval").body, node.target)
        before, after = self.eval(load, env), self.eval(node.value, env)
        self._assign(node.target, self._binary(node.op, before, after), env)

    def _assign(self, target: ast.expr, value: Any, env: ChainMap) -> None:
        if isinstance(target, ast.Name):
            env[target.id] = value
        elif isinstance(target, ast.Starred):
            self._assign(target.value, value, env)
        elif isinstance(target, (ast.Tuple, ast.List)):
            parts = self._elements(value)
            starred = next((i for i, each in enumerate(target.elts) if isinstance(each, ast.Starred)), None)
            if parts is not None and starred is not None:
                end = len(parts) - (len(target.elts) - starred - 1)
                parts = [*parts[:starred], self._made(Items(parts[starred:end])), *parts[end:]]
            fits = parts is not None and len(parts) == len(target.elts)
            for i, each in enumerate(target.elts):
                self._assign(each, parts[i] if parts is not None and fits else Value(), env)
        elif isinstance(target, ast.Attribute):
            if isinstance(self.eval(target.value, env), Ref):
                self.assigned[target.attr] = value if isinstance(value, Value) else Value()
        elif isinstance(target, ast.Subscript):
            owner, index = self.eval(target.value, env), self.eval(target.slice, env)
            if isinstance(owner, (list, dict)):
                self._change(owner, "__setitem__", [index, value], {})

    def _do_If(self, node: ast.If, env: ChainMap) -> bool:
        value = self.eval(node.test, env)
        test = self._truth(value)
        if test is not None:
            return self._block(node.body if test else node.orelse, env)
        branches = {}
        for body, holds in ((node.body, True), (node.orelse, False)):
            branch = env.copy()
            try:
                with self._uncertain(), self._in_mode(value, holds):
                    through = self._block(body, branch)
            except Break:
                continue
            if through:
                branches[holds] = branch.maps[0]
        if branches:
            self._merge(env, list(branches.values()))
        if len(branches) == 1 and isinstance(value, Mode):  # what follows is for one mode
            self._training = value.holds is next(iter(branches))
        return bool(branches)

    @contextmanager
    def _in_mode(self, test: Any, holds: bool) -> Iterator[None]:
        """Read what runs if a condition holds, or does not: it may be the mode, training or evaluation."""
        before = self._training
        if isinstance(test, Mode):
            self._training = test.holds is holds
        try:
            yield
        finally:
            self._training = before

    @contextmanager
    def _uncertain(self) -> Iterator[None]:
        """Read what runs, or does not: only a run tells."""
        self._level += 1
        try:
            yield
        finally:
            self._level -= 1

    def _merge(self, env: ChainMap, branches: Sequence[Any]) -> None:
        names = dict.fromkeys(name for branch in branches for name in branch)
        for name in names:
            found = [branch[name] for branch in branches if name in branch]
            env.maps[0][name] = tuple(chain(*found)) if name == INPUTS else self._join(found)

    def _do_For(self, node: ast.For, env: ChainMap) -> bool:
        over, read_body = self.eval(node.iter, env), lambda: self._block(node.body, env)
        return self._loop(node, node.target, over, env, read_body, node.body) or self._block(node.orelse, env)

    def _do_While(self, node: ast.While, env: ChainMap) -> bool:
        self._unknown_times(env, lambda: (self.eval(node.test, env), self._block(node.body, env)), node.body)
        return self._block(node.orelse, env)

    def _do_With(self, node: ast.With, env: ChainMap) -> bool:
        for item in node.items:
            value = self.eval(item.context_expr, env)
            if item.optional_vars is not None:
                self._assign(item.optional_vars, value, env)
        no_gradients = any(ast.unparse(item.context_expr).endswith(_NO_GRADIENTS) for item in node.items)
        with self._in_mode(Mode(True) if no_gradients else None, False):
            return self._block(node.body, env)

    def _do_Try(self, node: ast.Try, env: ChainMap) -> bool:
        before = env.copy()
        through = self._block([*node.body, *node.orelse], env)
        for handler in node.handlers:
            branch = before.copy()
            if self._block(handler.body, branch):
                self._merge(env, [env.maps[0], branch.maps[0]] if through else [branch.maps[0]])
                through = True
        return self._block(node.finalbody, env) and through

    def _do_FunctionDef(self, node: ast.FunctionDef, env: ChainMap) -> None:
        env[node.name] = Closure(node, env, self._functions[-1])

    def _do_Import(self, node: ast.Import, env: ChainMap) -> None:
        for alias in node.names:
            name = alias.name if alias.asname else alias.name.partition(".")[0]
            env[alias.asname or name] = sys.modules.get(name, Value())

    def _do_ImportFrom(self, node: ast.ImportFrom, env: ChainMap) -> None:
        place = sys.modules.get(node.module or "") if not node.level else None
        for alias in node.names:
            env[alias.asname or alias.name] = self._wrapped(getattr(place, alias.name, Value()))

    def _do_Match(self, node: ast.Match, env: ChainMap) -> bool:
        subject, branches = self.eval(node.subject, env), []
        for case in node.cases:
            matches = None if case.guard else self._matches(case.pattern, subject, env)
            if matches is False:
                continue
            branch = env.copy()
            for name in (
                each.name for each in ast.walk(case.pattern) if isinstance(each, (ast.MatchAs, ast.MatchStar))
            ):
                if name:
                    branch[name] = Value()
            with self._uncertain():
                through = self._block(case.body, branch)
            if through:
                branches.append(branch.maps[0])
            if matches:
                break
        else:
            branches.append(env.maps[0])
        if branches:
            self._merge(env, branches)
        return bool(branches)

    def _matches(self, pattern: ast.pattern, subject: Any, env: ChainMap) -> bool | None:
        """Whether ``case pattern`` fits; None if only a run tells."""
        plain = isinstance(subject, (*_PLAIN, Enum))
        if isinstance(pattern, ast.MatchAs) and pattern.pattern is None and pattern.name is None:
            return True if plain else None
        if isinstance(pattern, ast.MatchOr):
            found = [self._matches(each, subject, env) for each in pattern.patterns]
            return True if True in found else None if None in found else False
        if not isinstance(pattern, (ast.MatchValue, ast.MatchSingleton)) or not plain:
            return None
        value = self.eval(pattern.value, env) if isinstance(pattern, ast.MatchValue) else pattern.value
        return value == subject if isinstance(value, (*_PLAIN, Enum)) else None

    # Loops

    def _loop(
        self, loop: Any, target: ast.expr, over: Any, env: ChainMap, body: Callable[[], Any], inside: Any
    ) -> bool:
        """Read the body of a loop once for each layer, or for each index of a layer; of other loops once.

        Returns:
            whether it ends by a ``break`` for sure.
        """
        elements = self._elements(over)
        if elements is None:
            elements = self._unknown_elements(target, over, env, inside)
        if elements is None:
            self._assign(target, Value(), env)
            self._unknown_times(env, body, inside)
            return False
        counted = self._is_over_layers(target, elements, env, inside)
        for i, element in enumerate(elements if counted else elements[:MAX_ITERATIONS]):
            self._assign(target, element, env)
            if counted:
                self._loops.append((loop, i))
            try:
                body()
            except Break:
                return True
            finally:
                if counted:
                    self._loops.pop()
        return False

    def _unknown_times(self, env: ChainMap, body: Callable[[], Any], inside: Any) -> None:
        assigned = {
            node.id for node in _nodes(inside) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }
        for name in assigned & env.keys():  # an earlier time may have assigned it
            env[name] = Varying(lambda: None, env[name].layer if isinstance(env[name], Value) else None)
        for _ in range(2):  # what the first time assigns, the second time may use
            for name in assigned & env.keys():
                if isinstance(env[name], Value):
                    env[name] = Varying(env[name].resolve, env[name].layer)
            before = dict(env.maps[0])
            with suppress(Break), self._uncertain():
                body()
            self._merge(env, [before, env.maps[0]])

    def _is_over_layers(self, target: ast.expr, elements: Sequence[Any], env: ChainMap, inside: Any) -> bool:
        return _are_layers(elements) or bool(self._indexed(target, env, inside))

    def _indexed(self, target: ast.expr, env: ChainMap, inside: Any) -> list[Any]:
        """The layers that the variables of a loop index: ``self.convs`` in ``self.convs[i]``; or name, in a module."""
        names = _names(target)
        for node in _nodes(inside):  # in their order: name = f"conv{i}" comes before getattr(self, name)
            if isinstance(node, ast.Assign) and names & _names(node.value):
                names = names.union(*map(_names, node.targets))
        found = []
        for node in _nodes(inside):
            if isinstance(node, ast.Subscript):
                used, owner = node.slice, node.value
            elif isinstance(node, ast.Call) and getattr(node.func, "id", None) == "getattr":
                used, owner = node.args[-1] if len(node.args) < 3 else node.args[1], node.args[0]
            elif isinstance(node, ast.Call) and getattr(node.func, "attr", None) in ("__getattr__", "get_submodule"):
                used, owner = node.args[0], node.func.value  # type: ignore[attr-defined]
            else:
                continue
            if names & _names(used) and isinstance(owner, (ast.Name, ast.Attribute, ast.Subscript)):
                layers = self.eval(owner, env)
                parts = layers.values() if isinstance(layers, dict) else layers
                if isinstance(layers, Ref) or (isinstance(layers, (list, tuple, dict)) and _are_layers(parts)):
                    found.append(layers)
        return found

    def _unknown_elements(self, target: ast.expr, over: Any, env: ChainMap, inside: Any) -> list[Any] | None:
        """``for i, x in enumerate(xs)`` with ``self.convs[i]`` inside: as many as there are layers."""
        if not (isinstance(over, Method) and over.name in ("enumerate", "range")):
            return None
        found = [parts for each in self._indexed(target, env, inside) if (parts := self._elements(each)) is not None]
        if not found:
            return None
        numbers = range(min(map(len, found)))
        return [Items((i, Value())) for i in numbers] if over.name == "enumerate" else list(numbers)


def _names(node: ast.AST) -> set[str]:
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}


def _are_layers(values: Iterable[Any]) -> bool:
    """Whether layers or activations are among values."""
    return any(isinstance(each, (Ref, Choice, nn.Module)) or is_activation_function(each) for each in _parts(values))


def _parts(values: Iterable[Any]) -> Iterator[Any]:
    """Values, and those in lists among them: ``enumerate(zip(convs, norms))`` has lists in lists."""
    for value in values:
        yield value
        if isinstance(value, Items):
            yield from _parts(value)


def _nodes(inside: Any) -> Iterator[ast.AST]:
    """All nodes of statements, or of an expression."""
    return (each for part in (inside if isinstance(inside, list) else [inside]) for each in ast.walk(part))
