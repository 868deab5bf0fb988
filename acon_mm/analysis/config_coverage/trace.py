"""All ReLU-like calls that a model makes while it runs, of modules and of functions, and which module makes them."""

from __future__ import annotations

import linecache
import sys
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import torch
from mmengine.model import BaseModel
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ...compat import call_position, qualified_name
from ...convert.sites import ACTIVATIONS, find_sites
from ...layers import Acon

_TORCH = str(Path(torch.__file__).parent)
_OURS = str(Path(__file__).parent)
_NAMES = (
    *("relu", "relu_", "leaky_relu", "leaky_relu_", "prelu", "_prelu_kernel", "rrelu_with_noise", "elu", "elu_"),
    *("celu", "celu_", "selu", "selu_", "gelu", "gelu_", "silu", "silu_", "mish", "mish_", "hardswish", "hardswish_"),
    *("threshold", "threshold_"),
)
_CLAMPS = ("clamp", "clamp_", "clamp_min", "clamp_min_", "hardtanh", "hardtanh_")

#: code whose calls are not a network's activations, by the Python module or function
NOT_THE_NETWORK = {
    "mmdet.models.losses": "part of a loss",
    "mmseg.models.losses": "part of a loss",
    "mmseg.models.decode_heads.stdc_head": "edges of the truth, not features",
    "mmdet.models.task_modules": "boxes and priors, not features",
    "mmdet.structures": "boxes and masks, not features",
    "mmdet.models.roi_heads.mask_heads.fcn_mask_head._do_paste_mask": "boxes and masks, not features",
    "mmdet.models.dense_heads.centernet_update_head.CenterNetUpdateHead.add_cls_pos_inds": "targets, not features",
    "mmdet.models.dense_heads.yolact_head.YOLACTProtonet.sanitize_coordinates": "boxes and masks, not features",
    "mmdet.evaluation": "a metric",
    "mmdet.models.roi_heads.roi_extractors": "levels of a pyramid, not features",
    "mmcv.ops": "boxes and coordinates, not features",
}

#: LD and LAD keep their teacher outside of the model's modules
TEACHER = "of a teacher that is not a part of the model: it keeps the activations that it was trained with"


class Call(NamedTuple):
    """A call of a ReLU-like function.

    Attributes:
        module: the innermost module whose method makes the call; None outside of the model.
        text: the call in the source.
        code: the function that contains it.
        where: file and line, for messages.
    """

    module: nn.Module | None
    text: str
    code: str
    where: str


class Trace(TorchDispatchMode):
    """A context that records the ReLU-like calls inside of it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: set[Call] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = func.overloadpacket.__name__
        if name in _NAMES or (name in _CLAMPS and _is_relu(name, args, kwargs or {})):
            self.calls.add(_caller(sys._getframe(1)))
        return func(*args, **(kwargs or {}))


def _is_relu(name: str, args: tuple, kwargs: dict) -> bool:
    """Whether a clamp is a ReLU (it has the lower bound 0 and no upper one) or a hardtanh is a ReLU6."""
    low, high = (kwargs.get(key, args[i] if len(args) > i else None) for i, key in ((1, "min"), (2, "max")))
    return isinstance(low, (int, float)) and low == 0 and (high == 6 if name.startswith("hardtanh") else high is None)


def _caller(frame: FrameType) -> Call:
    """The call that led to ``frame``: its source is outside of PyTorch, its module may be a layer of PyTorch."""
    module = None
    while True:
        owner = frame.f_locals.get("self")
        inside = frame.f_code.co_filename.startswith((_TORCH, _OURS))
        if module is None and isinstance(owner, nn.Module) and (not inside or isinstance(owner, ACTIVATIONS)):
            module = owner
        if not inside or frame.f_back is None:
            break
        frame = frame.f_back
    outer: FrameType | None = frame
    while module is None and outer is not None:  # the call is in a function: find the module that called it
        module = outer.f_locals.get("self") if isinstance(outer.f_locals.get("self"), nn.Module) else None
        outer = outer.f_back
    where = f"{frame.f_code.co_filename.rpartition('site-packages/')[2]}:{frame.f_lineno}"
    function = f"{frame.f_globals.get('__name__', '')}.{qualified_name(frame)}"
    return Call(module, _text(frame.f_code, frame.f_lasti), function, where)


def _text(code: CodeType, instruction: int) -> str:
    """The source of the expression that ``instruction`` belongs to, on one line."""
    line, end_line, column, end_column = call_position(code, instruction)
    lines = [linecache.getline(code.co_filename, number) for number in range(line, end_line + 1)]
    # Positions count bytes.
    lines[-1] = lines[-1].encode()[:end_column].decode(errors="replace")
    lines[0] = lines[0].encode()[column:].decode(errors="replace")
    return " ".join(" ".join(lines).split())


def explain(model: BaseModel, calls: set[Call]) -> tuple[dict[str, str], list[str]]:
    """Why each call stays, by the name of the call; and the calls without a reason. Calls of ACONs are left out."""
    names: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(name)
    _, kept = find_sites(model)
    if "teacher_model" in vars(model):
        kept["teacher_model"] = TEACHER
        for name, module in model.teacher_model.named_modules(prefix="teacher_model"):
            names.setdefault(id(module), []).append(name)
    known, unknown = {}, set()
    for call in calls:
        if isinstance(call.module, Acon):
            continue
        paths = names.get(id(call.module), ["?"])
        labels = [_join(path, call.text) for path in paths]
        reasons = [_reason(each, kept) for each in (*labels, *paths)]
        reasons += [reason for place, reason in NOT_THE_NETWORK.items() if call.code.startswith(place)]
        reason = next(filter(None, reasons), None)
        if reason is not None:
            known[labels[0]] = reason
        else:
            unknown.add(f"{labels[0]} ({call.where})")
    return known, sorted(unknown)


def _join(path: str, text: str) -> str:
    return f"{path}.{text}" if path else text


def _reason(name: str, kept: dict[str, str]) -> str | None:
    """The reason of a module or call, or of a module that contains it."""
    while name not in kept and "." in name:
        name = name.rpartition(".")[0]
    return kept.get(name)
