"""Which ACON a state dict holds, told by the names of its parameters alone."""

from collections.abc import Iterable, Mapping

from torch import nn

from ..layers import Acon

# The parameters that tell the kinds apart; the first that fits counts.
_KINDS = (
    ({"p1", "p2", "fc1.weight"}, "MetaAconC"),
    ({"p1", "p2", "beta"}, "AconC"),
    ({"p1", "p2"}, "MetaAconC without fc1 (generator='layer' or 'pixel')"),
    ({"p", "beta"}, "AconB"),
    ({"conv_frelu.weight"}, "AconFReLU"),
    ({"beta"}, "AconA"),
)


def acon_type_of(names: Iterable[str]) -> str | None:
    """The ACON that has parameters of these names; None: no ACON has."""
    names = set(names)
    return next((kind for needed, kind in _KINDS if needed <= names), None)


def acons_of(model: nn.Module) -> dict[str, Acon]:
    """The ACONs of a model by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Acon)}


def has_acons(model: nn.Module) -> bool:
    return any(isinstance(module, Acon) for module in model.modules())


def names_below(keys: Iterable[str], prefix: str) -> set[str]:
    """What follows ``prefix.`` in the keys that begin with it; all keys for an empty prefix."""
    start = f"{prefix}." if prefix else ""
    return {key[len(start) :] for key in keys if key.startswith(start)}


def foreign_acons(unexpected: Iterable[str]) -> dict[str, str]:
    """Kinds by place of the ACONs among keys that a model does not know."""
    names: dict[str, set[str]] = {}
    for key in unexpected:
        place, _, leaf = key.rpartition(".")
        if leaf in ("p1", "p2", "beta"):
            names.setdefault(place, set()).add(leaf)
        elif key.endswith(".fc1.weight"):
            names.setdefault(place.rpartition(".")[0], set()).add("fc1.weight")
    return {place: kind for place, found in names.items() if {"p1", "p2"} <= found and (kind := acon_type_of(found))}


def with_our_names(state_dict: Mapping, model: nn.Module) -> dict:
    """The state dict with yolov5's ``act`` called ``activate``, as ConvModule does, where the model has an ACON there.

    The parameters themselves have the same names there, the authors' and here.
    """
    renamed = {}
    for place in acons_of(model):
        stem, _, leaf = place.rpartition(".")
        theirs = f"{stem}.act".lstrip(".")
        if leaf == "activate" and not names_below(state_dict, place):
            renamed |= {f"{theirs}.{name}": f"{place}.{name}" for name in names_below(state_dict, theirs)}
    return {renamed.get(key, key): value for key, value in state_dict.items()} if renamed else dict(state_dict)
