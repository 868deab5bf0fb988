"""Activations whose input is changed in place later. A ReLU's gradient needs its output, an ACON's its input."""

from __future__ import annotations

import ast
from collections import ChainMap
from collections.abc import Iterator

from ..activations import ACTIVATION_METHODS
from .things import Part, Visit

#: the variable that holds the inputs of the activations so far, as their text, with the visits
INPUTS = "@inputs"


class Overwriting(Part):
    """Finds them in the statements of a function."""

    def _overwrite(self, statement: ast.stmt, first: int, env: ChainMap) -> None:
        """Note the activations whose input a statement changes, among them those since the visit ``first``.

        A variable that is assigned again is another tensor.
        """
        source = self._functions[-1][0]
        new = ((_input(visit.node), visit) for visit in self.result.visits[first:] if visit.source is source)
        inputs: tuple[tuple[str, Visit], ...] = (*env.get(INPUTS, ()), *(each for each in new if each[0]))
        for changed in _changed(statement):
            for text, visit in inputs:
                if text in (changed, _base(changed)) or (_base(text) == changed and visit.kind == "call"):
                    visit.kind = "overwritten"
        for name in _assigned(statement):
            inputs = tuple(each for each in inputs if _base(each[0]) != name)
        env[INPUTS] = inputs


def _input(node: ast.AST) -> str:
    """The text of an activation's input, if it is a variable or a part of one."""
    if not isinstance(node, ast.Call):
        return ""
    x = node.args[0] if node.args else getattr(node.func, "value", None)
    return ast.unparse(x) if isinstance(x, (ast.Name, ast.Subscript)) else ""


def _base(text: str) -> str:
    """``y`` of ``y[:, 1]``."""
    return text.partition("[")[0]


def _changed(statement: ast.stmt) -> Iterator[str]:
    """The texts of what a statement changes in place: ``y += 1``, ``y[:, 1] = 0``, ``y.add_(1)``."""
    if isinstance(statement, ast.AugAssign):
        yield ast.unparse(statement.target)
    for target in statement.targets if isinstance(statement, ast.Assign) else ():
        if isinstance(target, ast.Subscript) and isinstance(target.slice, (ast.Slice, ast.Tuple)):
            yield ast.unparse(target)  # of a tensor; y[i] may be of a list
    for node in ast.walk(statement):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name = node.func.attr
            if name.endswith("_") and name[0] != "_" and name not in (*ACTIVATION_METHODS, "requires_grad_"):
                yield ast.unparse(node.func.value)


def _assigned(statement: ast.stmt) -> Iterator[str]:
    """The variables that a statement assigns; ``self.relu(x)``, which is without use, will be ``x = self.relu(x)``."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and not isinstance(statement, ast.AugAssign):
            yield node.id
    if isinstance(statement, ast.Expr) and (text := _input(statement.value)):
        yield text
