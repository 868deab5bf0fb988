"""Gives each site of a model an activation of the kind that it has."""

from torch import nn

import acon_mm
from acon_mm.convert.sites import find_sites

OPTIONS = ("negative_slope", "approximate", "alpha", "threshold", "value", "inplace")


def own_kind(activation: nn.Module) -> dict:
    options = {name: getattr(activation, name) for name in OPTIONS if hasattr(activation, name)}
    return dict(type=type(activation), **options)


def convert_to_own_kinds(model: nn.Module) -> nn.Module:
    """The model, changed in place: it computes what it did before."""
    kinds: dict[str, tuple[dict, list[str]]] = {}
    for site in find_sites(model)[0]:
        cfg = own_kind(site.current)
        exactly = f"[{site.name[0]}]{site.name[1:]}"  # as a pattern; as a word it would fit parts of names
        kinds.setdefault(str(cfg), (cfg, []))[1].append(exactly)
    for cfg, names in kinds.values():
        acon_mm.convert_activations(model, cfg, names)
    return model
