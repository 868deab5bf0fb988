"""What converted weights require of the model that loads them.

The requirements lie in the metadata of a state dict (``state_dict._metadata``), where PyTorch keeps the version of each
module. A module that loads weights with requirements keeps them, so that what is saved after training has them as well.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import nn

from .acon_types import acons_of, has_acons

_KEY = "acon_mm"
#: where a part of a model that is being built finds what its pictures pass first
_PREPROCESSOR = "_acon_data_preprocessor"

Requirements = dict[str, Any]


def attach(state_dict: dict, required: Requirements, place: str = "") -> None:
    """Write requirements of the module at ``place`` into the metadata of a state dict (an ``OrderedDict``)."""
    if not hasattr(state_dict, "_metadata"):
        state_dict._metadata = {}
    state_dict._metadata.setdefault(place, {})[_KEY] = required


def requirements_in(state_dict: Mapping) -> dict[str, Requirements]:
    """The requirements in a state dict, by the place of the module that has them."""
    metadata = getattr(state_dict, "_metadata", None) or {}
    return {
        place: entry[_KEY]
        for place, entry in metadata.items()
        if isinstance(entry, Mapping) and isinstance(entry.get(_KEY), Mapping)
    }


def state_dict_below(state_dict: Mapping, prefix: str) -> OrderedDict:
    """What lies below a prefix, with its metadata, the prefix taken off.

    Raises:
        AssertionError: nothing does (as mmengine's own).
    """
    start = f"{prefix}."
    part = OrderedDict((key[len(start) :], value) for key, value in state_dict.items() if key.startswith(start))
    assert part, f"{start} is not in the pretrained model"
    metadata = getattr(state_dict, "_metadata", None) or {}
    part._metadata = {
        place.removeprefix(prefix).removeprefix("."): entry
        for place, entry in metadata.items()
        if f"{place}.".startswith(start)
    }
    return part


class _Keeper:
    """Writes a module's requirements into the metadata whenever its state dict is made."""

    def __init__(self, required: Requirements):
        self.required = required

    def __call__(self, module: nn.Module, state_dict: dict, prefix: str, local_metadata: dict) -> None:
        local_metadata[_KEY] = self.required


def keep(model: nn.Module, found: Mapping[str, Requirements]) -> None:
    """Let the modules of a model keep these requirements, instead of those of an earlier load."""
    for module in model.modules():
        for key in [key for key, hook in module._state_dict_hooks.items() if isinstance(hook, _Keeper)]:
            del module._state_dict_hooks[key]
    for place, required in found.items():
        model.get_submodule(place).register_state_dict_post_hook(_Keeper(required))


def remember_preprocessors(built: nn.Module) -> None:
    """Tell every part of a model that initialises itself by what its pictures are prepared.

    A part loads its weights without seeing the model around it. Models without ACON stay as they are.
    """
    if not has_acons(built):
        return
    for model in built.modules():
        if isinstance(model, BaseModel):
            for part in model.modules():
                if part is not model and getattr(part, "init_cfg", None) and has_acons(part):
                    # Past nn.Module, which would register it as a child.
                    part.__dict__[_PREPROCESSOR] = model.data_preprocessor


def unmet(required: Requirements, model: nn.Module, place: str) -> list[str]:
    """Why the module ``place`` of ``model`` does not meet these requirements, each with what to change."""
    try:
        part = model.get_submodule(place)
    except AttributeError:
        return [f"it has weights of {place}, which {type(model).__name__} has not"]
    found = []
    for option in ("depth", "style", "base_channels", "stem_channels"):
        needed, present = required.get(option), getattr(part, option, None)
        if needed is not None and present is not None and present != needed:
            found.append(f"it needs {option}={needed!r} of the backbone, not {present!r}")
    if getattr(part, "deep_stem", False) or getattr(part, "avg_down", False):
        found.append(
            f"it needs a backbone of type='ResNet', with one 7x7 convolution as stem, not {type(part).__name__}"
        )
    act_cfg = required.get("act_cfg")
    if act_cfg and not acons_of(part):
        found.append(f"it activates with {act_cfg['type']}: give the backbone act_cfg={dict(act_cfg)}")
    if required.get("input"):
        found += _input_problems(required["input"], _preprocessor_of(model, part))
    return found


def _preprocessor_of(model: nn.Module, part: nn.Module) -> nn.Module | None:
    preprocessor = part.__dict__.get(_PREPROCESSOR)
    for around in model.modules():
        if isinstance(around, BaseModel) and any(module is part for module in around.modules()):
            preprocessor = around.data_preprocessor
    # Semi-supervised detectors wrap theirs.
    return getattr(preprocessor, "data_preprocessor", preprocessor)


def _input_problems(needed: Mapping, preprocessor: nn.Module | None) -> list[str]:
    if preprocessor is None:  # a backbone on its own
        return []
    swaps = getattr(preprocessor, "_channel_conversion", getattr(preprocessor, "channel_conversion", False))
    normalises = getattr(preprocessor, "_enable_normalize", False)
    mean = preprocessor.mean.flatten() if normalises else torch.zeros(3)
    std = preprocessor.std.flatten() if normalises else torch.ones(3)
    found = []
    if swaps:
        found.append("it needs pictures in BGR: set bgr_to_rgb=False (and no rgb_to_bgr) in data_preprocessor")
    for name, present in (("mean", mean), ("std", std)):
        if not torch.allclose(present.cpu(), torch.tensor(needed[name], dtype=present.dtype)):
            values = [round(value, 3) for value in present.tolist()]
            found.append(f"it needs {name}={needed[name]} in data_preprocessor, not {values}")
    return found
