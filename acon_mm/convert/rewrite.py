"""A copy of an upstream method that calls other modules where the original calls an activation.

A copy of the forward by hand would fit only one version of upstream. Instead, the source of the method is read, the
activation calls in it are replaced, and it is compiled again with its own file name and line numbers. Tracebacks and
debuggers show the upstream lines.
"""

import __future__

import ast
import inspect
from collections.abc import Collection, Sequence
from types import FunctionType

#: the functions and attributes that OpenMMLab's methods call to activate
ACTIVATION_CALLS = frozenset(
    ("F.relu", "F.relu_", "self.relu", "self.act", "self.activate", "self.activation", "self.nonlinearity")
)

_HINT = "install the versions of acon_mm[openmmlab] or acon_mm[onedl], or correct the entry"


def rewrite(method: FunctionType, calls: Sequence[str | None], also_calls: Collection[str] = ()) -> FunctionType:
    """A copy of ``method`` that calls other modules in place of its activations.

    Args:
        method: a method that calls activations: ``self.relu(x)``, ``F.relu(x, inplace=True)``, ...
        calls: the expression to call instead, one for each activation call, in the order of evaluation. Expressions
            may use the method's variables: ``'self.act1'``, ``'self.act_after(conv)'``. None: the call is kept.
        also_calls: other calls to count as activation calls: of submodules that contain activations.

    Raises:
        ValueError: the number of activation calls is not ``len(calls)``, or the method cannot be compiled on its own.
    """
    where = f"{method.__module__}.{method.__qualname__}"
    source = inspect.getsource(method)
    # The method is indented. ``if 1:`` before it keeps its columns, for tracebacks.
    tree = ast.parse("if 1:\n" + source)
    definition = _function_in(tree)
    free = set(method.__code__.co_freevars) - {"__class__"}
    if definition.decorator_list:
        raise ValueError(f"{where} cannot be compiled on its own, because it has a decorator: {_HINT}")
    if free:
        raise ValueError(
            f"{where} cannot be compiled on its own, because it uses {sorted(free)} of a function around it: {_HINT}"
        )
    callees = ACTIVATION_CALLS | frozenset(also_calls)
    found = [node for node in ast.walk(definition) if isinstance(node, ast.Call) and ast.unparse(node.func) in callees]
    found.sort(key=lambda node: (node.end_lineno, node.end_col_offset))  # an inner call ends, and runs, first
    if len(found) != len(calls):
        raise ValueError(
            f"{where} calls {len(found)} activations, but its entry in the tables lists {len(calls)}: {_HINT}"
        )
    for node, expression in zip(found, calls, strict=True):
        if expression is not None:
            callee = ast.parse(expression, mode="eval").body
            for part in ast.walk(callee):
                ast.copy_location(part, node.func)
            node.func, node.args, node.keywords = callee, node.args[:1], []  # without inplace=True
    return _compile(method, tree, definition)


def _function_in(tree: ast.Module) -> ast.FunctionDef:
    """The outermost function in a piece of source."""
    return next(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def _compile(method: FunctionType, tree: ast.Module, definition: ast.FunctionDef) -> FunctionType:
    # ``super()`` needs a variable ``__class__`` around the method. A function with that argument provides it.
    factory = _function_in(ast.parse("def factory(__class__): pass"))
    factory.body = [definition, ast.parse(f"return {definition.name}").body[0]]
    tree.body = [factory]
    ast.fix_missing_locations(tree)
    ast.increment_lineno(tree, method.__code__.co_firstlineno - 2)
    flags = __future__.annotations.compiler_flag  # do not evaluate annotations again
    code = compile(tree, method.__code__.co_filename, "exec", flags=flags, dont_inherit=True)
    namespace: dict = {}
    exec(code, method.__globals__, namespace)
    cells = dict(zip(method.__code__.co_freevars, method.__closure__ or (), strict=True))
    rewritten = namespace["factory"](cells["__class__"].cell_contents if cells else None)
    rewritten.__qualname__ = method.__qualname__
    return rewritten
