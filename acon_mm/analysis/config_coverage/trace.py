"""Every ReLU-like call that a model makes while it runs, modules and functions alike, and who made it."""

import linecache
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import NamedTuple

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ...convert.sites import ACTIVATIONS, find_sites
from ...layers import Acon

_TORCH = str(Path(torch.__file__).parent)
_OURS = str(Path(__file__).parent)
_NAMES = (
    *("relu", "relu_", "leaky_relu", "leaky_relu_", "prelu", "_prelu_kernel", "rrelu_with_noise", "elu", "elu_"),
    *("celu", "celu_", "selu", "selu_", "gelu", "gelu_", "silu", "silu_", "mish", "mish_", "hardswish", "hardswish_"),
)
_CLAMPS = ("clamp", "clamp_", "clamp_min", "clamp_min_", "hardtanh", "hardtanh_")

#: code whose calls are no activations of a network, by the module or function that it is in
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

#: LD and LAD hide their teacher from PyTorch, and so from whoever looks through the model's modules
TEACHER = "of a teacher that is no part of the model: it stays what its weights were trained as"


class Call(NamedTuple):
    """Who called a ReLU-like function.

    Attributes:
        module: the innermost module at work; None outside of the model.
        text: the call as the source has it.
        code: the function that the source is in.
        where: file and line, for messages.
    """

    module: nn.Module | None
    text: str
    code: str
    where: str


class Trace(TorchDispatchMode):
    """Notes the calls while it is entered."""

    def __init__(self):
        super().__init__()
        self.calls: set[Call] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in _NAMES or (name in _CLAMPS and _is_relu(name, args, kwargs or {})):
            self.calls.add(_caller(sys._getframe(1)))
        return func(*args, **(kwargs or {}))


def _is_relu(name: str, args: tuple, kwargs: dict) -> bool:
    """A clamp is a ReLU, or with a hardtanh's bounds a ReLU6, if it cuts at 0 below; between bounds it is neither."""
    low, high = (kwargs.get(key, args[i] if len(args) > i else None) for i, key in ((1, "min"), (2, "max")))
    return isinstance(low, (int, float)) and low == 0 and (high == 6 if name.startswith("hardtanh") else high is None)


def _caller(frame: FrameType | None) -> Call:
    """The innermost frame outside of PyTorch, and the innermost module at work there or in PyTorch's layers."""
    module = None
    while frame is not None:
        owner = frame.f_locals.get("self")
        inside = frame.f_code.co_filename.startswith((_TORCH, _OURS))
        if module is None and isinstance(owner, nn.Module) and (not inside or isinstance(owner, ACTIVATIONS)):
            module = owner
        if not inside:
            break
        frame = frame.f_back
    outer = frame
    while module is None and outer is not None:  # a function that a module called
        module = outer.f_locals.get("self") if isinstance(outer.f_locals.get("self"), nn.Module) else None
        outer = outer.f_back
    where = f"{frame.f_code.co_filename.rpartition('site-packages/')[2]}:{frame.f_lineno}"
    function = f"{frame.f_globals.get('__name__', '')}.{frame.f_code.co_qualname}"
    return Call(module, _text(frame.f_code, frame.f_lasti), function, where)


def _text(code: CodeType, instruction: int) -> str:
    """The source of the expression that ``instruction`` belongs to, on one line."""
    line, end_line, column, end_column = list(code.co_positions())[instruction // 2]
    lines = [linecache.getline(code.co_filename, number) for number in range(line, end_line + 1)]
    # Positions count bytes.
    lines[-1] = lines[-1].encode()[:end_column].decode(errors="replace")
    lines[0] = lines[0].encode()[column:].decode(errors="replace")
    return " ".join(" ".join(lines).split())


def explain(model: nn.Module, calls: set[Call]) -> tuple[dict[str, str], list[str]]:
    """Sort calls into those with a reason to stay, by name, and the others.

    Calls inside an ACON are neither.
    """
    names: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(name)
    _, kept = find_sites(model)
    if "teacher_model" in vars(model):  # and not in its modules
        kept["teacher_model"] = TEACHER
        for name, module in model.teacher_model.named_modules(prefix="teacher_model"):
            names.setdefault(id(module), []).append(name)
    known, unknown = {}, set()
    for call in calls:
        if isinstance(call.module, Acon):
            continue
        paths = names.get(id(call.module), ["?"])
        labels = [_join(path, call.text) for path in paths]
        reason = next(filter(None, (_reason(each, kept) for each in (*labels, *paths))), None)
        for package, why in NOT_THE_NETWORK.items():
            if reason is None and call.code.startswith(package):
                reason = why
        if reason is not None:
            known[labels[0]] = reason
        else:
            unknown.add(f"{labels[0]} ({call.where})")
    return known, sorted(unknown)


def _join(path: str, text: str) -> str:
    return f"{path}.{text}" if path else text


def _reason(name: str, kept: dict[str, str]) -> str | None:
    if name in kept:
        return kept[name]
    return next((kept[above] for above in _above(name) if above in kept), None)


def _above(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name
