"""Which ACONs a model has, and which types of ACON a state dict has, by the names of its parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from ..layers import Acon

#: names that only one type has, and the type; the first that fits counts
_TYPES = (
    ({"p1", "p2", "fc1.weight"}, "MetaAconC"),
    ({"p1", "p2", "beta"}, "AconC"),
    ({"p1", "p2"}, "MetaAconC without fc1 (generator='layer' or 'pixel')"),
    ({"p", "beta"}, "AconB"),
    ({"conv_frelu.weight"}, "AconFReLU"),
    ({"beta"}, "AconA"),
)


def acon_type_from_names(names: Iterable[str]) -> str | None:
    """The type of ACON that has parameters of these names; ``None`` where no type has."""
    names = set(names)
    return next((acon_type for needed, acon_type in _TYPES if needed <= names), None)


def acon_types_by_place(keys: Iterable[str]) -> dict[str, str]:
    """The places (``layer1.0.act2``) in the keys of a state dict that have an ACON-C or Meta-ACON, with its type."""
    names: dict[str, set[str]] = {}
    for key in keys:
        place, _, name = key.rpartition(".")
        if name in ("p1", "p2", "beta"):
            names.setdefault(place, set()).add(name)
        elif key.endswith(".fc1.weight"):
            names.setdefault(place.rpartition(".")[0], set()).add("fc1.weight")
    types = {place: acon_type_from_names(found) for place, found in names.items() if {"p1", "p2"} <= found}
    return {place: acon_type for place, acon_type in types.items() if acon_type}


def acons_of(model: nn.Module) -> dict[str, Acon]:
    """The ACONs of a model, by place."""
    return {place: module for place, module in model.named_modules() if isinstance(module, Acon)}


def has_acons(model: nn.Module) -> bool:
    return any(isinstance(module, Acon) for module in model.modules())


def names_below(keys: Iterable[str], prefix: str) -> set[str]:
    """The keys that begin with ``prefix.``, without it; all keys where the prefix is empty."""
    start = f"{prefix}." if prefix else ""
    return {key[len(start) :] for key in keys if key.startswith(start)}


def rename_yolov5_keys(state_dict: Mapping, model: nn.Module) -> dict:
    """A copy of the state dict in which yolov5's ``act`` is ``activate``, as in ConvModule.

    Only keys of ACONs that the model has are renamed. What follows ``act`` has the same names in yolov5 and here.
    """
    renamed: dict[str, str] = {}
    for place in acons_of(model):
        parent, _, name = place.rpartition(".")
        yolov5_place = f"{parent}.act".lstrip(".")
        if name == "activate" and not names_below(state_dict, place):
            renamed |= {f"{yolov5_place}.{leaf}": f"{place}.{leaf}" for leaf in names_below(state_dict, yolov5_place)}
    return {renamed.get(key, key): value for key, value in state_dict.items()}
