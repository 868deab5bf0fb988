"""Classes whose methods call other activations than upstream's.

A copy of a forward by hand would fit only one version of upstream. Instead, the source of the method is read, the
activation calls in it are replaced, and it is compiled again (:mod:`~acon_mm.convert.source`). A module gets a subclass
of its class with such methods. It has the same name, so ``isinstance`` and parameter names stay the same.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cache
from inspect import unwrap
from types import FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

from ..compat import state_of, strict_zip
from .source import Edit, Source, UnreadableError

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
    source = Source.of(method)
    callees = ACTIVATION_CALLS | frozenset(also_calls)
    nodes = ast.walk(source.definition)
    found = [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) in callees]
    found.sort(key=lambda node: (node.end_lineno or 0, node.end_col_offset or 0))  # an inner call ends, and runs, first
    if len(found) != len(calls):
        raise ValueError(
            f"{source.name} calls {len(found)} activations, but its entry in the tables lists {len(calls)}: {_HINT}"
        )
    edits: list[Edit] = []
    for node, callee in strict_zip(found, calls):
        if callee is not None:
            edits += source.call_instead(node, callee)
    return source.compile(edits)


class Change(NamedTuple):
    """A change of one node of a source.

    Attributes:
        node: its number.
        kind: ``'call'`` (call ``text`` instead), ``'name'`` (write ``text`` instead) or ``'count'`` (number the
            iterations of a loop by the variable ``text``).
        text: see ``kind``.
    """

    node: int
    kind: str
    text: str


class MethodChange(NamedTuple):
    """The changes of one method.

    Attributes:
        name: the name that the changed method gets.
        definer: the class that defines the method, as ``module.Class``.
        original: its name there.
        digest: :attr:`Source.digest` of the source that was read.
        changes: see :class:`Change`.
    """

    name: str
    definer: str
    original: str
    digest: str
    changes: tuple[Change, ...]

    def compile(self, cls: type) -> FunctionType:
        """The changed method of ``cls``.

        Raises:
            UnreadableError: the method is another one than was read, or cannot be compiled on its own.
        """
        definers = (base for base in cls.__mro__ if _name_of(base) == self.definer and self.original in vars(base))
        source = Source.of(vars(next(definers, cls)).get(self.original))  # type: ignore[arg-type]
        if source.digest != self.digest:
            raise UnreadableError(f"{source.name} is not the one that was converted: it has another source now")
        edits: list[Edit] = []
        for number, kind, text in self.changes:
            node = source.node(number)
            edit = {"call": source.call_instead, "name": source.replace, "count": source.count}[kind]
            edits += edit(node, text)
        return source.compile(edits)


class Rewritten:
    """Base of the classes that :func:`rewritten_class` makes."""

    if TYPE_CHECKING:  # torch.jit.script of PyTorch 2.0 does not take annotations that are texts
        _acon_upstream: type[nn.Module]
        _acon_changes: tuple[MethodChange, ...]

    def __reduce_ex__(self, protocol: Any) -> tuple:
        # The class is made at run time, so a pickle says how.
        cls, history = type(self), []
        while issubclass(cls, Rewritten):
            history.append(cls._acon_changes)
            cls = cls._acon_upstream  # type: ignore[assignment]
        return _new_instance, (cls, tuple(reversed(history))), state_of(self)


@cache
def rewritten_class(upstream: type[nn.Module], changes: tuple[MethodChange, ...]) -> type[nn.Module]:
    """A subclass of ``upstream`` with these methods changed.

    Raises:
        UnreadableError: a method cannot be compiled.
    """
    namespace: dict[str, Any] = {name: getattr(upstream, name) for name in ("__module__", "__qualname__", "__doc__")}
    namespace |= {"_acon_upstream": upstream, "_acon_changes": changes}
    namespace |= {change.name: change.compile(upstream) for change in changes}
    if issubclass(upstream, (nn.Sequential, nn.ModuleList)):  # its own layers are those before the conversion
        texts = [change.text for method in changes for change in method.changes if change.kind != "count"]
        new = {text.partition(".")[2].partition("[")[0] for text in texts}
        namespace |= {"_acon_new": new | new_names(upstream), "__iter__": _iter, "__len__": _len}
        namespace |= {"__prepare_scriptable__": _refuse_script}
    bases = (upstream,) if issubclass(upstream, Rewritten) else (Rewritten, upstream)
    metaclass: Any = type(upstream)
    return metaclass(upstream.__name__, bases, namespace)


def new_names(cls: type) -> set[str]:
    """The activations that a container has since it was converted, and does not call as one of its layers."""
    return getattr(cls, "_acon_new", set())


def _iter(self: nn.Module) -> Iterator[nn.Module | None]:
    return (layer for name, layer in self._modules.items() if name not in new_names(type(self)))


def _refuse_script(self: nn.Module) -> None:
    new = ", ".join(sorted(new_names(type(self))))
    raise RuntimeError(
        f"torch.jit.script cannot compile this {type(self).__name__}: it would call {new} as one of the layers. "
        "torch.jit.trace and torch.export can"
    )


def _len(self: nn.Module) -> int:
    return len(self._modules.keys() - new_names(type(self)))


def _new_instance(cls: type[nn.Module], history: tuple[tuple[MethodChange, ...], ...]) -> nn.Module:
    for changes in history:
        cls = rewritten_class(cls, changes)  # type: ignore[arg-type]
    return cls.__new__(cls)


def _name_of(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def method_changes(
    cls: type[nn.Module],
    changes: dict[Source, list[Change]],
    supers: Iterable[tuple[Source, int, Source]],
) -> tuple[MethodChange, ...]:
    """The changes of sources as changes of the methods of ``cls``.

    Args:
        changes: the changes of each source.
        supers: calls of a base's method: the source that calls, the number of the node, the source that is called.

    Raises:
        UnreadableError: a changed function is not a method of ``cls``.
    """
    changes, supers = dict(changes), list(supers)
    names: dict[Source, list[str]] = {}
    waiting = list(changes)
    while waiting:  # who calls a changed method of a base is changed as well
        source = waiting.pop()
        names[source] = _names_in(cls, source.function)
        is_own = bool(names[source])
        if not is_own:
            parts = (
                source.function.__name__,
                "of",
                *source.function.__qualname__.replace("<locals>", "_").split(".")[:-1],
            )
            names[source] = ["_".join(parts)]
        for caller, number, called in supers:
            func = caller.node(number).func if called is source else None
            by_super = isinstance(getattr(func, "value", None), ast.Call)
            if func is not None and not (is_own and by_super):
                owner = caller.owner if by_super else f"type({caller.owner})"
                change = Change(caller.number(func), "name", f"{owner}.{names[source][0]}")
                if caller not in changes:
                    waiting.append(caller)
                if change not in changes.setdefault(caller, []):
                    changes[caller].append(change)
    return tuple(
        MethodChange(name, *_definer(cls, source), source.digest, tuple(sorted(set(found))))
        for source, found in changes.items()
        for name in names[source]
    )


def _names_in(cls: type, function: FunctionType) -> list[str]:
    """The names of a method in a class: ``forward = other`` gives it two. None if the class overrides it."""
    names = dict.fromkeys(name for base in cls.__mro__ for name, value in vars(base).items() if _is(value, function))
    return [name for name in names if _is(inspect.getattr_static(cls, name), function)]


def _is(value: Any, function: FunctionType) -> bool:
    return isinstance(value, FunctionType) and unwrap(value) is function


def _definer(cls: type, source: Source) -> tuple[str, str]:
    methods = ((base, name, value) for base in cls.__mro__ for name, value in vars(base).items())
    for base, name, value in methods:
        if _is(value, source.function):
            return _name_of(base), name
    raise UnreadableError(f"{source.name} activates, and is not a method that {cls.__qualname__} could override")
