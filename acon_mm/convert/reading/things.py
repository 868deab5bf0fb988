"""What a name in a source can stand for, and what a reading finds."""

from __future__ import annotations

import ast
from collections import ChainMap
from dataclasses import dataclass, field
from types import FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

from ..activations import ACTIVATION_FUNCTIONS
from ..source import Source
from ..values import Value

if TYPE_CHECKING:  # the parts of one class use each other's methods
    Part = Any
else:
    Part = object


class Ref(NamedTuple):
    """A module that the source names, and its path in the module that is read; None if it has none."""

    module: nn.Module
    path: str | None


class Given(Value):
    """What a caller gives to a method. It belongs to the caller."""


class Mode(Value):
    """``self.training``, which ``holds`` in training; or ``not self.training``, which does in evaluation."""

    def __init__(self, holds: bool) -> None:
        super().__init__()
        self.holds = holds


class Text(Value):
    """A text of which a part is known."""

    def __init__(self, pattern: str) -> None:
        super().__init__()
        self.pattern = pattern


class GivenActivation(NamedTuple):
    """``act=F.relu`` in the parameters of a method: a caller may give another."""

    activation: Any


class Choice(tuple):
    """One of several things; only a run tells which."""


class Items(list):
    """A list that the source makes.

    Attributes:
        known: whether these are its elements, in this order; False if only a run tells what else a method did to it.
        level: how many conditions and loops around the place that makes it only a run can decide.
    """

    known = True
    level = 0


class Table(dict):
    """A dict that the source makes; the attributes are those of :class:`Items`."""

    known = True
    level = 0


class Method(NamedTuple):
    """A method of something that is no module."""

    owner: Any
    name: str


class Super(NamedTuple):
    """``super()``: what the bases of ``after`` define."""

    after: type


class OnTheFly(NamedTuple):
    """``nn.ReLU(inplace=True)`` in a forward."""

    module: nn.Module


class Partial(NamedTuple):
    """``partial(func, ...)`` of a layer or function, in the source."""

    func: Any
    args: tuple
    keywords: dict[str, Any]


class Closure(NamedTuple):
    """A function that is defined inside of the source."""

    node: ast.FunctionDef | ast.Lambda
    env: ChainMap
    function: tuple[Source, bool]  # the one around it, as in ``_functions``


@dataclass(eq=False)
class Visit:
    """One activation at one place of the source, and in one iteration of the loops around it.

    Attributes:
        source: the function that contains the call.
        node: the call; or the name that is given to another function, which calls it.
        loops: the loops over layers around the call, each with the number of its iteration.
        callee: the activation module that is called; a function's equal, as a module; None if only a run tells.
        path: the name of the callee in the module that is read; None if it is a function.
        value: the input.
        bound: whether the function belongs to the module that is read, so that it can be changed.
        kind: ``'call'``; ``'name'`` where the activation is given to a function; ``'hidden'`` where it has no name;
            ``'given'`` where a caller may give another; ``'outside'`` where a function that cannot be read calls it;
            ``'decorator'`` where the decorator of a method does; ``'overwritten'`` where its input is changed in
            place; ``'weighted'`` where its slope is a parameter.
        training: whether only training calls it, or only evaluation; None: both.
    """

    source: Source
    node: ast.Call | ast.expr
    loops: tuple[tuple[Any, int], ...]
    callee: nn.Module | None
    path: str | None
    value: Value
    bound: bool
    kind: str
    training: bool | None = None

    @property
    def place(self) -> tuple[Source, int]:
        return self.source, self.source.number(self.node)


@dataclass
class Reading:
    """What :func:`read` found.

    Attributes:
        visits: the activations that are called, in the order of the source.
        others: places that call layers which are no activations.
        supers: calls of a base's method: the function that calls, the node, the function that is called.
        loose: layers that are called and are no children of the module, each with the place.
        entered: methods of other modules that are called, apart from forward.
        unknown: places that call something that only a run tells.
        functions: the functions that were read.
        asked: where the type of an activation is asked for, by the name of the activation.
        iterated: where the module calls its own children one after the other; None if it does not.
        sequential: whether it calls its children one after the other, as ``nn.Sequential`` does.
        output: the output of forward.
        problem: why the reading is not complete; None if it is.
    """

    visits: list[Visit] = field(default_factory=list)
    others: set[tuple[Source, int]] = field(default_factory=set)
    supers: dict[tuple[Source, int], FunctionType] = field(default_factory=dict)
    loose: list[tuple[nn.Module, str]] = field(default_factory=list)
    entered: list[tuple[nn.Module, str]] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    functions: set[FunctionType] = field(default_factory=set)
    asked: dict[str | None, str] = field(default_factory=dict)
    iterated: str | None = None
    sequential: bool = False
    output: Value = field(default_factory=Value)
    problem: str | None = None


class Stop(Exception):
    """The source is too large."""


class Break(Exception):
    pass


def is_activation_function(value: Any) -> bool:
    try:
        return value in ACTIVATION_FUNCTIONS
    except TypeError:
        return False


def join_path(path: str | None, name: str) -> str | None:
    return None if path is None else f"{path}.{name}" if path else name
