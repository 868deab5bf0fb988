"""What converted weights require of the model that loads them.

Requirements are stored in the metadata of a state dict (``state_dict._metadata``), where PyTorch stores the version of
each module. A module that loads weights with requirements keeps them. So the weights that are saved after training have
them as well.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import nn

from ..compat import register_state_dict_post_hook
from .acon_types import acons_of, has_acons

_KEY = "acon_mm"
#: the attribute of a part in which the data preprocessor of its model is stored
_PREPROCESSOR = "_acon_data_preprocessor"

Requirements = dict[str, Any]


def attach(state_dict: Any, required: Requirements, place: str = "") -> None:
    """Write the requirements of the module at ``place`` into the metadata of a state dict (an ``OrderedDict``)."""
    if not hasattr(state_dict, "_metadata"):
        state_dict._metadata = {}
    state_dict._metadata.setdefault(place, {})[_KEY] = required


def requirements_in(state_dict: Mapping) -> dict[str, Requirements]:
    """The requirements in a state dict, by the place of the module that has them. Other metadata is ignored."""
    metadata = getattr(state_dict, "_metadata", None) or {}
    return {
        place: entry[_KEY]
        for place, entry in metadata.items()
        if isinstance(entry, Mapping) and isinstance(entry.get(_KEY), Mapping)
    }


def state_dict_below(state_dict: Mapping, prefix: str) -> OrderedDict:
    """The entries and the metadata whose names begin with ``prefix.``, without it.

    Raises:
        AssertionError: no entry does. (mmengine's own function raises this.)
    """
    start = f"{prefix}."
    part: Any = OrderedDict((key[len(start) :], value) for key, value in state_dict.items() if key.startswith(start))
    assert part, f"{start} is not in the pretrained model"
    metadata = getattr(state_dict, "_metadata", None) or {}
    part._metadata = {
        place.removeprefix(prefix).removeprefix("."): entry
        for place, entry in metadata.items()
        if f"{place}.".startswith(start)
    }
    return part


class _Keeper:
    """A hook that writes a module's requirements into the metadata whenever its state dict is made."""

    def __init__(self, required: Requirements):
        self.required = required

    def __call__(self, module: nn.Module, state_dict: dict, prefix: str, local_metadata: dict) -> None:
        local_metadata[_KEY] = self.required


def keep(model: nn.Module, found: Mapping[str, Requirements]) -> None:
    """Let the modules of a model keep these requirements. Those of an earlier load are forgotten."""
    for module in model.modules():
        for key in [key for key, hook in module._state_dict_hooks.items() if isinstance(hook, _Keeper)]:
            del module._state_dict_hooks[key]
    for place, required in found.items():
        register_state_dict_post_hook(model.get_submodule(place), _Keeper(required))


def remember_preprocessors(built: nn.Module) -> None:
    """Store a model's data preprocessor in its parts that have ``init_cfg``.

    Such a part loads its weights alone, and must check what prepares its pictures. Models without ACON do not change.
    """
    if not has_acons(built):
        return
    for model in built.modules():
        if isinstance(model, BaseModel):
            for part in model.modules():
                if part is not model and getattr(part, "init_cfg", None) and has_acons(part):
                    # Not by setattr, which would register it as a child.
                    part.__dict__[_PREPROCESSOR] = model.data_preprocessor


def unmet(required: Requirements, model: nn.Module, place: str) -> list[str]:
    """The requirements that the module ``place`` of ``model`` does not meet, each with what to change."""
    try:
        part = model.get_submodule(place)
    except AttributeError:
        return [f"it has weights of {place}, which {type(model).__name__} does not have"]
    found = []
    for option in ("depth", "style", "base_channels", "stem_channels"):
        needed, present = required.get(option), getattr(part, option, None)
        if needed is not None and present is not None and present != needed:
            found.append(f"it needs a backbone with {option}={needed!r}, not {option}={present!r}")
    if getattr(part, "deep_stem", False) or getattr(part, "avg_down", False):
        found.append(
            f"it needs a backbone of type='ResNet', whose stem is one 7x7 convolution, not {type(part).__name__}"
        )
    act_cfg = required.get("act_cfg")
    if act_cfg and not acons_of(part):
        found.append(f"it has {act_cfg['type']}, and the model no ACON: set act_cfg={dict(act_cfg)} for the backbone")
    if required.get("input"):
        found += _input_problems(required["input"], _preprocessor_of(model, part))
    return found


def _preprocessor_of(model: nn.Module, part: nn.Module) -> nn.Module | None:
    preprocessor = part.__dict__.get(_PREPROCESSOR)
    for around in model.modules():
        if isinstance(around, BaseModel) and any(module is part for module in around.modules()):
            preprocessor = around.data_preprocessor
    # The data preprocessor of a semi-supervised detector contains another.
    return getattr(preprocessor, "data_preprocessor", preprocessor)


def _input_problems(needed: Mapping, preprocessor: Any) -> list[str]:
    if preprocessor is None:  # a backbone on its own
        return []
    swaps = getattr(preprocessor, "_channel_conversion", getattr(preprocessor, "channel_conversion", False))
    normalizes = getattr(preprocessor, "_enable_normalize", False)
    mean = preprocessor.mean.flatten() if normalizes else torch.zeros(3)
    std = preprocessor.std.flatten() if normalizes else torch.ones(3)
    found = []
    if swaps:
        found.append("it needs pictures in BGR: set bgr_to_rgb=False (and no rgb_to_bgr) in data_preprocessor")
    for name, present in (("mean", mean), ("std", std)):
        if not torch.allclose(present.cpu(), torch.tensor(needed[name], dtype=present.dtype)):
            values = [round(value, 3) for value in present.tolist()]
            found.append(f"it needs {name}={needed[name]} in data_preprocessor, not {values}")
    return found
