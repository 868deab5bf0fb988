"""What a difference between a checkpoint and a model means: an error, or a line of the report.

:mod:`acon_mm.checkpoints.loading` lists the rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, NamedTuple

from mmengine.model import BaseModel
from torch import Tensor, nn

from ..layers import Acon
from .acon_types import acon_type_from_names, acon_types_by_place, acons_of, names_below
from .comparison import Comparison
from .report import LoadReport, inits_of, summary

_OFFICIAL = "it is a file of the authors: convert it with tools/model_converters/convert_checkpoint.py official"


class AconTypes(NamedTuple):
    """The types of the ACONs at one place; ``None`` where the parameters are of no type."""

    checkpoint: str | None
    model: str | None


@dataclass
class Case:
    """A checkpoint that is to be loaded into a model.

    Attributes:
        model: the model.
        state_dict: names and tensors of the checkpoint.
        comparison: how the two differ.
        allow: names or patterns of what may differ.
        strict: whether a tensor that the checkpoint does not have is an error.
    """

    model: nn.Module
    state_dict: Mapping[str, Any]
    comparison: Comparison
    allow: tuple[str, ...]
    strict: bool

    @cached_property
    def acons(self) -> dict[str, Acon]:
        return acons_of(self.model)

    @cached_property
    def acon_keys(self) -> dict[str, list[str]]:
        """Names of the tensors of each ACON, by its place."""
        keys = self.comparison.shapes
        return {place: [key for key in keys if _lies_in(key, place)] for place in self.acons}

    @cached_property
    def kept_acons(self) -> list[str]:
        """Places of the ACONs that keep their initial values, since the checkpoint has nothing for them."""
        missing = set(self.comparison.missing)
        return [
            place
            for place, keys in self.acon_keys.items()
            if keys and missing.issuperset(keys) and not names_below(self.state_dict, place)
        ]

    @cached_property
    def other_types(self) -> dict[str, AconTypes]:
        """Places of the ACONs that are of another type in the checkpoint."""
        types = {
            place: AconTypes(
                checkpoint=acon_type_from_names(names_below(self.state_dict, place)),
                model=acon_type_from_names(names_below(keys, place)),
            )
            for place, keys in self.acon_keys.items()
            if keys and place not in self.kept_acons
        }
        return {place: found for place, found in types.items() if found.checkpoint != found.model}

    @cached_property
    def missing(self) -> list[str]:
        """Tensors that the checkpoint does not have, besides those of ACONs."""
        of_acons = {key for keys in self.acon_keys.values() for key in keys}
        return [key for key in self.comparison.missing if key not in of_acons]

    @cached_property
    def dropped(self) -> list[str]:
        """Tensors of the checkpoint that the model does not have, and does not need."""
        unexpected = self.comparison.unexpected
        return [key for key, value in unexpected.items() if self._changes_nothing(key, value) or self.allows(key)]

    def allows(self, key: str) -> bool:
        return any(fnmatchcase(key, entry) or key.startswith(f"{entry}.") for entry in self.allow)

    def _changes_nothing(self, key: str, value: Any) -> bool:
        if key.endswith("num_batches_tracked"):
            return True
        part = key.partition(".")[0]
        is_whole_model = isinstance(self.model, BaseModel)
        if not is_whole_model and part not in self.model._modules and part not in self.model._parameters:
            return True  # a classifier's fc, given to a backbone
        return key.endswith(".bias") and isinstance(value, Tensor) and not value.any()


def report_of(case: Case, folded: list[str]) -> LoadReport:
    """What a load without errors does."""
    return LoadReport(
        type(case.model).__name__,
        loaded=case.comparison.loaded,
        started=[key for place in case.kept_acons for key in sorted(case.acon_keys[place])],
        inits=inits_of(case.model, case.kept_acons),
        missing=case.missing,
        dropped=case.dropped,
        wrong_shape=list(case.comparison.wrong_shape),
        folded=folded,
    )


def errors_in(case: Case) -> list[str]:
    """Why the checkpoint does not fit, each with the way out; empty where it does."""
    if not case.comparison.loaded:
        return [_nothing_fits(case)]
    return [
        *case.comparison.errors,
        *_incomplete_acons(case),
        *_other_acons(case),
        *_missing_tensors(case),
        *_wrong_shapes(case),
        *_unexpected_tensors(case),
    ]


def _other_acons(case: Case) -> list[str]:
    places: dict[AconTypes, list[str]] = {}
    for place, types in case.other_types.items():
        if not all(case.allows(key) for key in case.acon_keys[place]):
            places.setdefault(types, []).append(place)
    return [
        f"{summary(found) if len(found) > 1 else found[0]} is {types.checkpoint or 'no ACON'} in the checkpoint and "
        f"{types.model or 'another ACON'} in the model: set the same type in act_cfg"
        for types, found in places.items()
    ]


def _incomplete_acons(case: Case) -> list[str]:
    errors, missing = [], set(case.comparison.missing)
    for place, keys in case.acon_keys.items():
        lacking = [key for key in keys if key in missing and not case.allows(key)]
        if lacking and place not in case.kept_acons and place not in case.other_types:
            names = names_below(lacking, place)
            hint = " (Meta-ACON of yolov5 has no norms: set norm_cfg=None in act_cfg)" if "bn1.weight" in names else ""
            errors.append(f"of {place}, the checkpoint does not have {', '.join(sorted(names))}{hint}")
    return errors


def _missing_tensors(case: Case) -> list[str]:
    if case.strict:
        lacking = [key for key in case.missing if not case.allows(key)]
        return [f"it does not have {summary(lacking)}"] if lacking else []
    parts = _missing_parts(case)
    return [f"it has no weights for {', '.join(parts)}"] if parts else []


def _missing_parts(case: Case) -> list[str]:
    """Parts, at most two levels deep, that have weights (not only norms) and get none."""
    found: list[str] = []
    for part in dict.fromkeys(".".join(key.split(".")[:depth]) for depth in (1, 2) for key in case.missing):
        keys = [key for key in case.missing if key.startswith(f"{part}.")]
        has_weights = any(len(case.comparison.shapes.get(key, ())) > 1 for key in keys)
        is_there = any(key.startswith(f"{part}.") for key in case.state_dict)
        is_found = any(part.startswith(f"{outer}.") for outer in found)
        if has_weights and not is_there and not is_found and not all(case.allows(key) for key in keys):
            found.append(part)
    return found


def _wrong_shapes(case: Case) -> list[str]:
    return [
        f"size mismatch for {key}: {shape.checkpoint} in the checkpoint, {shape.model} in the model"
        for key, shape in case.comparison.wrong_shape.items()
        if not case.allows(key)
    ]


def _unexpected_tensors(case: Case) -> list[str]:
    keys = [key for key in case.comparison.unexpected if key not in case.dropped]
    if _is_official(keys):
        return [_OFFICIAL]
    foreign = {place: acon_type for place, acon_type in acon_types_by_place(keys).items() if place not in case.acons}
    rest = [key for key in keys if not any(_lies_in(key, place) for place in (*foreign, *case.other_types))]
    errors = []
    if foreign:
        types = " and ".join(sorted(set(foreign.values())))
        errors.append(
            f"it has {types} at {summary(foreign)}, where the model has no ACON: set its act_cfg and act_sites"
        )
    if rest:
        errors.append(f"{len(rest)} of its tensors are not in the model: {summary(rest)}")
    return errors


def _nothing_fits(case: Case) -> str:
    own, keys = set(case.comparison.shapes), set(case.state_dict)
    for part in dict.fromkeys(key.partition(".")[0] for key in case.state_dict):
        if names_below(keys, part) & own:
            return (
                f"its names begin with '{part}.': load it by "
                f"init_cfg=dict(type='Pretrained', prefix='{part}.', checkpoint=...)"
            )
    if _is_official(keys):
        return _OFFICIAL
    for part, _ in case.model.named_children():
        if names_below(own, part) & keys:
            return (
                f"it holds the weights of {part} alone: load it by "
                f"model.{part}.init_cfg=dict(type='Pretrained', checkpoint=...)"
            )
    return f"none of its {len(keys)} tensors are in the model: {summary(case.state_dict, most=3)}"


def _is_official(keys: Iterable[str]) -> bool:
    return any(re.search(r"\.acon[12]?\.p1$", key) for key in keys)


def _lies_in(key: str, place: str) -> bool:
    """Whether a tensor belongs to the module at a place; all belong to the model itself, whose place is empty."""
    return not place or key.startswith(f"{place}.")
