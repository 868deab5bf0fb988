"""What only newer versions of Python and PyTorch have, found by feature: the one place that tells them apart.

The floor is Python 3.9 and torch 2.0 (``pyproject.toml``).
"""

from __future__ import annotations

import ast
import copy
import dis
import inspect
import linecache
import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from itertools import zip_longest
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    strict_zip = zip
else:

    def strict_zip(*iterables: Any) -> Iterator[tuple]:
        """``zip(..., strict=True)`` of Python 3.10.

        Raises:
            ValueError: the iterables have different lengths.
        """
        missing = object()
        for values in zip_longest(*iterables, fillvalue=missing):
            if any(value is missing for value in values):
                raise ValueError("strict_zip() takes iterables of the same length")
            yield values


@contextmanager
def chdir(path: str | os.PathLike) -> Iterator[None]:
    """``contextlib.chdir`` of Python 3.11."""
    before = os.getcwd()
    os.chdir(path)
    try:
        yield
    finally:
        os.chdir(before)


def call_position(code: CodeType, instruction: int) -> tuple[int, int, int, int]:
    """Where the source of a call stands: first and last line from 1, first and last column from 0, in bytes.

    ``instruction`` is the offset of the call in ``code``, as in ``frame.f_lasti``. Before Python 3.11 and its
    ``co_positions``, it has a line only. So the source is compiled again, with another line for each call.
    """
    if hasattr(code, "co_positions"):
        line, end_line, column, end_column = (each or 0 for each in list(code.co_positions())[instruction // 2])
        return line, end_line, column, end_column
    places, codes = _numbered_calls(code.co_filename)
    for same in codes:
        if (same.co_firstlineno, same.co_name, same.co_code) == (code.co_firstlineno, code.co_name, code.co_code):
            numbers = [number for offset, number in dis.findlinestarts(same) if offset <= instruction]
            if numbers[-1] in places:
                return places[numbers[-1]]
    line = [line for offset, line in dis.findlinestarts(code) if offset <= instruction][-1]
    return line, line, 0, len(linecache.getline(code.co_filename, line).encode())


@cache
def _numbered_calls(path: str) -> tuple[dict[int, tuple[int, int, int, int]], list[CodeType]]:
    """The places of all calls in a file by their numbers, and all code of the file, with these numbers as lines."""
    lines = linecache.getlines(path)
    tree = ast.parse("".join(lines))
    # The first line of a function is that of its first decorator.
    decorators = {id(each) for node in ast.walk(tree) for each in getattr(node, "decorator_list", [])}
    calls = [each for each in ast.walk(tree) if isinstance(each, ast.Call) and id(each) not in decorators]
    places = {}
    for number, call in enumerate(calls, len(lines) + 1):
        places[number] = (call.lineno, call.end_lineno or 0, call.col_offset, call.end_col_offset or 0)
        call.lineno = number
    codes = [compile(tree, path, "exec")]
    for each in codes:  # the list grows
        codes += [constant for constant in each.co_consts if isinstance(constant, CodeType)]
    return places, codes


def qualified_name(frame: FrameType) -> str:
    """The name of a frame's function with that of its class, which Python 3.11 has as ``co_qualname``."""
    code = frame.f_code
    if hasattr(code, "co_qualname"):
        return code.co_qualname
    for cls in type(frame.f_locals.get("self")).__mro__:
        method = inspect.unwrap(vars(cls).get(code.co_name, qualified_name))
        if getattr(method, "__code__", None) is code:
            return method.__qualname__
    return code.co_name


_WRITES_BARE_TUPLES = ast.unparse(ast.parse("a, b = c")) == "a, b = c"


def unparse(node: ast.AST) -> str:
    """``ast.unparse(node)``, as Python 3.11 writes it: no parentheses around the tuples that are assigned to."""
    if not _WRITES_BARE_TUPLES:
        node = copy.deepcopy(node)
        for each in ast.walk(node):
            if isinstance(each, (ast.For, ast.AsyncFor, ast.comprehension)):
                each.target = _bare(each.target)
            elif isinstance(each, ast.Assign):
                each.targets = [_bare(target) for target in each.targets]
    return ast.unparse(node)


def _bare(target: ast.expr) -> ast.expr:
    return ast.Name(ast.unparse(target)[1:-1]) if isinstance(target, ast.Tuple) and target.elts else target


def state_of(instance: Any) -> Any:
    """``instance.__getstate__()``: what a pickle stores of it. Every object has the method since Python 3.11."""
    return instance.__getstate__() if hasattr(instance, "__getstate__") else instance.__dict__


def register_post_accumulate_grad_hook(parameter: torch.Tensor, hook: Callable[[torch.Tensor], None]) -> Any:
    """``parameter.register_post_accumulate_grad_hook(hook)`` of 2.1. The hook may end with its handle: keep that."""
    if hasattr(parameter, "register_post_accumulate_grad_hook"):
        return parameter.register_post_accumulate_grad_hook(hook)
    with torch.enable_grad():
        node: Any = parameter.expand_as(parameter).grad_fn.next_functions[0][0]  # type: ignore[union-attr]
    handle = node.register_hook(lambda *_: hook(parameter))
    handle.node = node  # which lives as long as somebody holds it
    return handle


def register_state_dict_post_hook(module: torch.nn.Module, hook: Callable[..., None]) -> None:
    """``module.register_state_dict_post_hook(hook)``, which is public since 2.5."""
    getattr(module, "register_state_dict_post_hook", module._register_state_dict_hook)(hook)


def _never() -> bool:
    return False


_compiler: Any = getattr(torch, "compiler", None)  # since 2.1

#: whether ``torch.compile`` traces this call; public since 2.3
is_compiling: Callable[[], bool] = getattr(_compiler, "is_compiling", None) or torch._utils.is_compiling

#: whether ``torch.export`` traces this call. Before 2.7, PyTorch does not tell.
is_exporting: Callable[[], bool] = getattr(_compiler, "is_exporting", _never)

_guard: Any = getattr(torch._C, "_AutoDispatchBelowADInplaceOrView", None) or torch._C._AutoDispatchBelowAutograd


@contextmanager
def _held() -> Iterator[None]:
    guard = _guard()
    try:
        yield
    finally:
        del guard


#: a context in which operators are called below autograd; in 2.0 it is one as long as the object is there
BelowAutograd: Any = _guard if hasattr(_guard, "__enter__") else _held


def define(library: torch.library.Library, schema: str) -> None:
    """Declare an operator. Since 2.2 a tag promises that ``torch.compile`` may trust what it declares."""
    tag = getattr(torch.Tag, "pt2_compliant_tag", None)
    library.define(schema, **({} if tag is None else {"tags": (tag,)}))


#: whether ``torch.load`` takes a list of types that a file may name, and their names there (2.6)
TAKES_ALLOWED_TYPES = hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint")


def reset_compiler() -> None:
    """Forget what ``torch.compile`` has compiled."""
    if hasattr(_compiler, "reset"):
        _compiler.reset()
    else:
        import torch._dynamo

        torch._dynamo.reset()


def compiler_stance(stance: str) -> AbstractContextManager[Any]:
    """``torch.compiler.set_stance`` of 2.6; older compilers always compile again where they must."""
    return _compiler.set_stance(stance) if hasattr(_compiler, "set_stance") else nullcontext()


def cpu_capability() -> str:
    """The instruction set that PyTorch's kernels use, such as ``AVX2``. Its own function is of 2.1."""
    found = re.search(r"CPU capability usage: (.+)", torch.__config__.show())
    return found[1] if found else "unknown"


def event_start(event: Any) -> int:
    """When an event of PyTorch's profiler began. Before 2.4 the profiler counts in microseconds."""
    return event.start_ns() if hasattr(event, "start_ns") else event.start_us()


class _FlopCounterMode(TorchDispatchMode):
    """The same for torch 2.0, for convolutions and matrix products."""

    def __init__(self, display: bool = True) -> None:
        super().__init__()
        self._total = 0

    def get_total_flops(self) -> int:
        return self._total

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        aten, called = torch.ops.aten, function._overloadpacket
        if called is aten.convolution:
            transposed = args[6]
            self._total += 2 * (args[0] if transposed else result).numel() * args[1][0].numel()
        elif called in (aten.mm, aten.addmm, aten.bmm, aten.baddbmm):
            self._total += 2 * result.numel() * args[-1].shape[-2]
        return result


try:
    from torch.utils.flop_counter import FlopCounterMode
except ImportError:
    FlopCounterMode = _FlopCounterMode  # type: ignore[assignment, misc]
