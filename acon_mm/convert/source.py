"""The source of a function: read once, changed in a few places, and compiled again.

Changes are made in the text, not in the syntax tree, so comments and line numbers stay. The changed text is registered
with ``linecache`` under a name of its own, so tracebacks, debuggers, ``inspect.getsource`` and ``torch.jit.script``
show and use what runs.
"""

from __future__ import annotations
import __future__

import ast
import functools
import hashlib
import inspect
import linecache
import re
from collections.abc import Iterable
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any, Union

from typing_extensions import Self

from ..compat import strict_zip, unparse

Node = Union[ast.expr, ast.comprehension, ast.For, ast.AsyncFor]


class UnreadableError(ValueError):
    """A function has no source, or its source cannot be compiled again."""


@dataclass(frozen=True, order=True)
class Edit:
    """A piece of a source that is replaced. Offsets are in bytes. Where two start together, ``order`` decides."""

    start: int
    order: int
    end: int
    text: bytes


class Source:
    """The source of a function: ``text``, its syntax tree ``definition``, and its ``nodes``, numbered."""

    def __init__(self, function: FunctionType) -> None:
        self.function = function
        self.name = f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', function)}"
        try:
            lines, self.line = inspect.getsourcelines(function)
            self.line = max(self.line, 1)
            self.text = "".join(lines).encode()
            # A method is indented. ``if 1:`` before it keeps its columns.
            indented = lines[0][:1].isspace()
            tree = ast.parse(b"if 1:\n" + self.text if indented else self.text)
            self.definition = _definition(tree, function.__code__.co_name)
        except (OSError, TypeError, SyntaxError, StopIteration, IndexError) as error:
            raise UnreadableError(f"the source of {self.name} cannot be read") from error
        self.first = 2 if indented else 1  # the number that the tree gives to the first line
        starts = [0]
        for line in self.text.splitlines(keepends=True):
            starts.append(starts[-1] + len(line))
        self._starts = starts
        self.nodes = {id(node): i for i, node in enumerate(ast.walk(self.definition))}
        statements = (node for node in ast.walk(self.definition) if isinstance(node, ast.Expr))
        self.discarded = {id(node.value) for node in statements}  #: calls without use of their results

    @classmethod
    def of(cls, function: FunctionType) -> Self:
        """The source of a function, or of the function that a decorator wraps.

        Raises:
            UnreadableError: it has none.
        """
        return _source(cls, inspect.unwrap(function))  # type: ignore[arg-type]

    @property
    def owner(self) -> str:
        """What a method calls its module: the name of its first parameter, mostly ``self``.

        Raises:
            UnreadableError: it has none.
        """
        code = self.function.__code__
        if not code.co_argcount:
            raise UnreadableError(f"{self.name} has no parameter for its module")
        return code.co_varnames[0]

    def where(self, node: Any) -> str:
        """The place of a node, for messages: ``my_module.Block.forward, line 12``."""
        return f"{self.name}, line {self.line_of(node)}"

    def line_of(self, node: Any) -> int:
        return node.lineno - self.first + self.line

    def number(self, node: ast.AST) -> int:
        """The number of a node, the same in every process that has the same source."""
        return self.nodes[id(node)]

    def node(self, number: int) -> Any:
        return next(node for i, node in enumerate(ast.walk(self.definition)) if i == number)

    def span(self, node: Any) -> tuple[int, int]:
        return (
            self._starts[node.lineno - self.first] + node.col_offset,
            self._starts[node.end_lineno - self.first] + node.end_col_offset,
        )

    @functools.cached_property
    def digest(self) -> str:
        """A short hash of what the function does: comments, docstrings and layout do not count."""
        return digest(self.definition)

    # Edits

    def replace(self, node: Any, text: str) -> list[Edit]:
        start, end = self.span(node)
        return [Edit(start, start - end, end, text.encode())]

    def call_instead(self, node: ast.Call, callee: str) -> list[Edit]:
        """Call ``callee`` with the first argument of a call alone: without ``inplace=True`` and the like."""
        start, end = self.span(node)
        given = [*node.args, *node.keywords]
        if id(node) in self.discarded:  # self.relu(x), or x.relu_(), which change x in place
            x = given[0] if given else node.func.value  # type: ignore[attr-defined]
            if not isinstance(x, ast.Name):
                raise UnreadableError(f"{self.where(node)}: the result of this call is not used")
            callee = f"{x.id} = {callee}"
        named = [each for each in node.keywords if each.arg in ("input", "x")]
        if any(isinstance(each, ast.Starred) for each in node.args) or any(each.arg is None for each in node.keywords):
            raise UnreadableError(f"{self.where(node)}: write the input of this call first, not in * or **")
        if not node.args and not named:  # x.relu_()
            if not isinstance(node.func, ast.Attribute):
                raise UnreadableError(f"{self.where(node)}: this call has no input of its own")
            dot = self.text.index(b".", self.span(node.func.value)[1], end)
            opening = Edit(start, start - end, start, f"{callee}(".encode())
            return [opening, Edit(dot, 0, end, b")" + self._lines(dot, end))]
        edits = self.replace(node.func, callee)
        if not node.args:
            name_start, value_start = self.span(named[0])[0], self.span(named[0].value)[0]
            if given[0] is not named[0] or b"(" in self.text[name_start:value_start]:
                raise UnreadableError(f"{self.where(node)}: write the input of this call first, without its name")
            edits.append(Edit(name_start, 0, value_start, b""))
        if len(given) > 1:
            kept_end, next_start = self.span(given[0])[1], self.span(given[1])[0]
            comma = self.text.index(b",", kept_end, next_start)
            edits.append(Edit(comma, 0, end - 1, self._lines(comma, end - 1)))
        return edits

    def count(self, loop: Any, counter: str) -> list[Edit]:
        """Number the iterations of a ``for``: ``for x in xs`` becomes ``for counter, (x) in enumerate(xs)``."""
        (target_start, target_end), (start, end) = self.span(loop.target), self.span(loop.iter)
        return [
            Edit(target_start, 1, target_start, f"{counter}, (".encode()),
            Edit(target_end, 1, target_end, b")"),
            Edit(start, start - end - 1, start, b"enumerate("),
            Edit(end, 1, end, b")"),
        ]

    def _lines(self, start: int, end: int) -> bytes:
        return b"\n" * self.text.count(b"\n", start, end)

    def compile(self, edits: Iterable[Edit]) -> FunctionType:
        """The function with these edits, of the same name, globals, defaults and closure, decorated as before.

        Raises:
            UnreadableError: it cannot be compiled on its own.
        """
        text, at = bytearray(), 0
        for edit in sorted(edits):
            text += self.text[at : edit.start] + edit.text
            at = max(at, edit.end)
        text += self.text[at:]
        code = self._code(bytes(text))
        function = self.function
        cells = dict(strict_zip(function.__code__.co_freevars, function.__closure__ or ()))
        closure = tuple(cells[name] for name in code.co_freevars)
        new: Any = FunctionType(code, function.__globals__, function.__name__, function.__defaults__, closure)
        functools.update_wrapper(new, function)
        del new.__wrapped__
        new.__kwdefaults__ = function.__kwdefaults__
        for decorator in reversed(self.definition.decorator_list):
            try:
                new = eval(ast.unparse(decorator), function.__globals__)(new)
            except Exception as error:
                raise UnreadableError(
                    f"{self.name} cannot be compiled on its own, because it has a decorator"
                ) from error
        return new

    def _code(self, text: bytes) -> CodeType:
        """The code of the function with another text."""
        file = inspect.getsourcefile(self.function) or self.function.__code__.co_filename
        filename = f"<{self.function.__qualname__} {hashlib.sha256(text).hexdigest()[:8]} of {file.strip('<>')}>"
        definition = _definition(ast.parse(b"if 1:\n" + text if self.first == 2 else text), self.definition.name)
        definition.decorator_list = []
        ast.increment_lineno(definition, self.line - self.first)
        # The names that the function takes from around it are those of a function around it here, too. A class gives
        # ``super()`` its class, and private names their full names.
        free = [name for name in self.function.__code__.co_freevars if name != "__class__"]
        class_name = f"__{self.class_name or ''}"  # as private names see it, and no name of the function's
        tree = ast.parse(f"def around({', '.join(free)}):\n class {class_name}: pass")
        tree.body[0].body[0].body = [definition]  # type: ignore[attr-defined]
        flags = __future__.annotations.compiler_flag  # do not evaluate annotations again
        code = compile(ast.fix_missing_locations(tree), filename, "exec", flags=flags, dont_inherit=True)
        whole = linecache.getlines(file, self.function.__globals__)
        new = text.decode().splitlines(keepends=True)
        lines = [*whole[: self.line - 1], *new, *whole[self.line - 1 + len(new) :]]
        linecache.cache[filename] = (sum(map(len, lines)), None, lines, filename)
        for name in ("around", class_name, definition.name):
            code = next(each for each in code.co_consts if isinstance(each, CodeType) and each.co_name == name)
        return code.replace(co_firstlineno=self.line)  # that of a decorator, for who reads it again

    @property
    def class_name(self) -> str | None:
        """The class that defines the method."""
        *_, outer, _ = ("", "", *self.function.__qualname__.split("."))
        return outer if outer.isidentifier() else None

    def full_name(self, attribute: str) -> str:
        """The name of an attribute; ``__private`` names have that of the class in it."""
        is_private = attribute.startswith("__") and not attribute.endswith("__") and self.class_name
        return f"_{(self.class_name or '').lstrip('_')}{attribute}" if is_private else attribute


def _definition(tree: ast.AST, name: str) -> ast.FunctionDef:
    return next(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == name)


@functools.lru_cache(maxsize=4096)
def _source(cls: type, function: FunctionType) -> Any:
    return cls(function)


def digest(definition: ast.FunctionDef) -> str:
    body = definition.body
    documented = isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant) and len(body) > 1
    parts = [ast.unparse(definition.args), *map(unparse, body[1:] if documented else body)]
    # Without blanks and quotes, which another Python writes differently.
    return hashlib.sha256(re.sub(r"[\s'\"]", "", "\n".join(parts)).encode()).hexdigest()[:12]
