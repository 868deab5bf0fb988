"""An upstream method with its activation calls led to other places, and everything else as it is.

Repeating an upstream forward in order to change three words in it would tie us to one version of it. Instead its
source is read, the calls are replaced, and it is compiled anew under its own file and line numbers: tracebacks and
debuggers show upstream's lines.
"""

import __future__

import ast
import inspect
from collections.abc import Collection, Sequence
from types import FunctionType

#: what calls an activation in the source of OpenMMLab's methods
ACTIVATION_CALLS = frozenset(
    ("F.relu", "F.relu_", "self.relu", "self.act", "self.activate", "self.activation", "self.nonlinearity")
)


def rewrite(method: FunctionType, calls: Sequence[str | None], also: Collection[str] = ()) -> FunctionType:
    """A copy of ``method`` in which the activation calls are made on other modules.

    Args:
        method: a method that calls activations: ``self.relu(x)``, ``F.relu(x, inplace=True)``, ...
        calls: for each of these calls, in the order in which they are evaluated, the expression to call instead, in
            terms of the method's variables (``'self.act1'``, ``'self.act_after(conv)'``); None: the call stays.
        also: what else counts as an activation call, since activations are below it.

    Raises:
        ValueError: the method has another number of activation calls, or its source cannot be compiled by itself.
    """
    where = f"{method.__module__}.{method.__qualname__}"
    source = inspect.getsource(method)
    # An indented block stays indented, so that columns remain right as well.
    tree = ast.parse("if 1:\n" + source)
    definition = tree.body[0].body[0]
    free = set(method.__code__.co_freevars) - {"__class__"}
    if definition.decorator_list or free:
        raise ValueError(f"{where} cannot be compiled by itself: it is decorated, or refers to {free or 'nothing'}")
    callees = ACTIVATION_CALLS | frozenset(also)
    found = [node for node in ast.walk(definition) if isinstance(node, ast.Call) and ast.unparse(node.func) in callees]
    found.sort(key=lambda node: (node.end_lineno, node.end_col_offset))  # inner calls end, and run, before outer ones
    if len(found) != len(calls):
        raise ValueError(
            f"{where} calls {len(found)} activations, not {len(calls)}: "
            "acon_mm does not know this version of the package that it belongs to"
        )
    for node, expression in zip(found, calls, strict=True):
        if expression is not None:
            callee = ast.parse(expression, mode="eval").body
            for part in ast.walk(callee):
                ast.copy_location(part, node.func)
            node.func, node.args, node.keywords = callee, node.args[:1], []  # without inplace=True
    return _compile(method, tree, definition)


def _compile(method: FunctionType, tree: ast.Module, definition: ast.FunctionDef) -> FunctionType:
    # ``super()`` looks for the variable ``__class__`` around a method: a function around it provides one.
    factory = ast.parse("def factory(__class__): pass").body[0]
    factory.body = [definition, ast.parse(f"return {definition.name}").body[0]]
    tree.body = [factory]
    ast.fix_missing_locations(tree)
    ast.increment_lineno(tree, method.__code__.co_firstlineno - 2)
    flags = __future__.annotations.compiler_flag  # annotations need not be evaluated again
    code = compile(tree, method.__code__.co_filename, "exec", flags=flags, dont_inherit=True)
    namespace: dict = {}
    exec(code, method.__globals__, namespace)
    cells = dict(zip(method.__code__.co_freevars, method.__closure__ or (), strict=True))
    rewritten = namespace["factory"](cells["__class__"].cell_contents if cells else None)
    rewritten.__qualname__ = method.__qualname__
    return rewritten
