"""What the tests cannot do with older stacks: the one list, with reasons. pytest prints it at the end of a run."""

from __future__ import annotations

import importlib.util
import weakref
from fnmatch import fnmatchcase
from functools import cache

import torch
from torch import nn

from acon_mm import AconC, compat
from acon_mm.ops.memory import recompute_outputs


def _drops_outputs() -> bool:
    """Whether this PyTorch tells what its operators have kept, so that outputs of ACONs can be made again."""
    act, conv = AconC(16), nn.Conv2d(16, 16, 1)
    y = act(torch.randn(2, 16, 64, 64, requires_grad=True))
    kept, loss = weakref.ref(y), conv(y).sum()
    del y
    recompute_outputs(loss)
    return kept() is None


def _has_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


#: what is missing: whether it is there, the reason, and the tests that need it
_LIMITS = (
    (
        _drops_outputs,
        "this PyTorch does not tell what its operators keep, so outputs are kept as usual",
        ["tests/ops/test_memory.py::*"],
    ),
    (
        lambda: _has_module("triton.experimental.gluon"),
        "Triton before 3.3 does not compile ahead as the launches from C++ need it",
        ["tests/ops/test_gpu.py::*launch*"],
    ),
    (
        lambda: _has_module("triton.runtime.interpreter"),
        "this Triton has no interpreter, so its kernels need a GPU",
        ["tests/ops/test_gpu.py::*", "tests/faults/test_fuzz.py::*[[]*triton*"],
    ),
    (
        lambda: hasattr(torch, "compiler") and hasattr(torch.compiler, "set_stance"),
        "torch.compile of this PyTorch does not know operators of others well enough",
        ["*compile*", "*dynamo*"],
    ),
    (
        lambda: hasattr(torch, "export") and hasattr(torch.compiler, "is_exporting"),
        "this PyTorch does not tell that it exports",
        ["*::*export*", "tests/layers/test_fx.py::*export*"],
    ),
    (
        lambda: compat.TAKES_ALLOWED_TYPES,
        "this PyTorch has no list of types that a checkpoint may name",
        [
            "tests/test_patches.py::*allowed_by_others*",
            "tests/test_patches.py::test_files_are_read_with_our_list_alone",
        ],
    ),
)


def reason_to_skip(name: str) -> str:
    """Why a test cannot run here; '' if it can. ``name`` is its node id."""
    for reason, patterns in _missing():
        # A pattern means the names of tests, or with a [ also their parameters.
        if any(fnmatchcase(name if "[" in pattern else name.partition("[")[0], pattern) for pattern in patterns):
            return reason
    return ""


@cache
def _missing() -> tuple[tuple[str, list[str]], ...]:
    return tuple((reason, patterns) for is_there, reason, patterns in _LIMITS if not is_there())
