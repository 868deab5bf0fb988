"""What a comparison compares: activations, sites, parts and initial values; and the config of each run."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS

from ...compat import strict_zip
from ...engine.command_line import add_import
from ...engine.optimizer import AconOptimWrapperConstructor
from ...errors import UserError
from ...layers import Acon
from ..explanation import explain

#: the word for the config as it is
AS_IT_IS = "config"


@dataclass(frozen=True)
class Variant:
    """One column of a comparison: the config with an activation.

    Attributes:
        label: its name in tables.
        act_cfg: the activation; None: the config as it is.
        act_sites: see ``act_sites`` of a config; None: the default.
        parts: keys of the model's config that get ``act_cfg``; empty: the whole model.
        lr_mult: the learning rate of ACON's own parameters, as a multiple of the others'.
    """

    label: str
    act_cfg: dict[str, Any] | None
    act_sites: str | list[str] | None = None
    parts: tuple[str, ...] = ("backbone",)
    lr_mult: float = 1.0

    @property
    def directory(self) -> str:
        return re.sub(r"[^A-Za-z0-9.]+", "-", self.label).strip("-")


def parse_act(text: str) -> dict[str, Any] | None:
    """The ``act_cfg`` that a word of the command line means: ``AconC`` or ``MetaAconC(r=8, norm_cfg=None)``.

    Raises:
        UserError: it is neither a name nor a call with options of literal values.
    """
    if text == AS_IT_IS:
        return None
    try:
        node = ast.parse(text, mode="eval").body
        if isinstance(node, ast.Name):
            return {"type": node.id}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
            return {"type": node.func.id, **{str(each.arg): _literal(each.value) for each in node.keywords}}
    except (SyntaxError, ValueError):
        pass
    raise UserError(f"--acts takes names with options, such as AconC or 'MetaAconC(norm_cfg=None)', got {text!r}")


def _literal(node: ast.expr) -> Any:
    """A literal; ``dict(...)`` counts as one."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
        return {str(each.arg): _literal(each.value) for each in node.keywords}
    return ast.literal_eval(node)


def variants(
    acts: Sequence[str],
    sites: Sequence[str] | None = None,
    parts: Sequence[str] = ("backbone",),
    inits: Sequence[str] | None = None,
    lr_mults: Sequence[float] = (1.0,),
) -> list[Variant]:
    """All combinations, those of the first activation first. ``init`` and ``lr_mult`` are for ACONs only.

    Raises:
        UserError: an activation is not one, is named twice, or has an ``init`` beside ``--init``.
    """
    found: list[Variant] = []
    for act in acts:
        act_cfg = parse_act(act)
        is_acon = act_cfg is not None and issubclass(_class_of(act_cfg), Acon)
        if is_acon and inits and act_cfg and "init" in act_cfg:
            raise UserError(f"{act} has an init, and --init gives another: leave one of them out")
        varied: dict[str, Sequence[Any] | None] = {
            "sites": sites if act_cfg else None,
            "parts": parts if act_cfg else None,
            "init": inits if is_acon else None,
            "lr x": lr_mults if is_acon else None,
        }
        axes = [[(name, value) for value in values or [None]] for name, values in varied.items()]
        for combination in itertools.product(*axes):
            chosen = dict(combination)
            varied_here = [name for (name, _), axis in strict_zip(combination, axes) if axis[1:]]
            named = [f"{name} {str(chosen[name]).removesuffix('.0')}" for name in varied_here]
            found.append(
                Variant(
                    label=", ".join([act, *named]),
                    act_cfg=act_cfg and act_cfg | ({"init": chosen["init"]} if chosen["init"] else {}),
                    act_sites=_sites(chosen["sites"]),
                    parts=() if chosen["parts"] in (None, "model") else tuple(chosen["parts"].split("+")),
                    lr_mult=chosen["lr x"] or 1.0,
                )
            )
    names = [each.directory for each in found]
    if twice := {each.label for each in found if names.count(each.directory) > 1}:
        raise UserError(f"these would have the same name: {', '.join(sorted(twice))}: name each once")
    return found


def _sites(text: str | None) -> str | list[str] | None:
    return text if text in (None, "paper", "all") else text.split(",")  # type: ignore[union-attr]


def _class_of(act_cfg: dict[str, Any]) -> type:
    found = MODELS.get(act_cfg["type"])
    if not isinstance(found, type):
        raise UserError(f"no activation has the name {act_cfg['type']!r}: write it as in an act_cfg, such as AconC")
    return found


def with_variant(cfg: Config, variant: Variant) -> Config:
    """The config with the variant's activation.

    Raises:
        UserError: the model has no such part.
    """
    cfg = deepcopy(cfg)
    if variant.act_cfg is not None:
        for part in _parts(cfg.model, variant.parts):
            part.pop("act_cfg", None)  # or the options of another activation would stay
            part.act_cfg = deepcopy(variant.act_cfg)
            part.pop("act_sites", None)
            if variant.act_sites is not None:
                part.act_sites = variant.act_sites
        if issubclass(_class_of(variant.act_cfg), Acon):
            _set_own_parameters(cfg, variant.lr_mult)
    return cfg


def _parts(model: Any, names: Sequence[str]) -> Iterator[Any]:
    if not names:
        yield model
    for name in names:
        # A detector has several heads, and a segmentor may have a list of auxiliary ones.
        keys = [key for key, part in model.items() if part and (key == name or name == key.rpartition("_")[2])]
        if not keys:
            known = [key for key, part in model.items() if isinstance(part, (dict, list))]
            raise UserError(f"the model has no part {name!r}: --parts takes model, head, or of {', '.join(known)}")
        for key in keys:
            yield from model[key] if isinstance(model[key], list) else [model[key]]


def _set_own_parameters(cfg: Config, lr_mult: float) -> None:
    """No weight decay for ACON's own parameters, as the authors trained, and their learning rate."""
    paramwise = deepcopy(cfg.optim_wrapper.get("paramwise_cfg") or {})
    acon = dict(paramwise.get("acon") or {})
    constructor = cfg.optim_wrapper.get("constructor")
    name = getattr(constructor, "__name__", constructor)  # pure-Python configs have classes
    if name and name.rpartition(".")[2] != AconOptimWrapperConstructor.__name__:
        acon["constructor"] = constructor
    if lr_mult != 1:
        acon["lr_mult"] = lr_mult
    cfg.optim_wrapper.constructor = AconOptimWrapperConstructor.__name__
    cfg.optim_wrapper.paramwise_cfg = {**paramwise, "acon": acon}


def run_config(cfg: Config, variant: Variant, seed: int, directory: Path, start: Path) -> Config:
    """The config of one run, which writes to ``directory`` and shares its start in the file ``start``."""
    cfg = with_variant(cfg, variant)
    cfg.work_dir = str(directory)
    cfg.resume = False
    cfg.randomness = {**cfg.get("randomness", {}), "seed": seed}
    add_import(cfg, "acon_mm.analysis.comparison")
    hook = {"type": "ComparisonHook", "out": str(directory), "start": str(start)}
    cfg.default_hooks = {**(cfg.get("default_hooks") or {}), "comparison": hook}
    return cfg


def describe(cfg: Config, variant: Variant) -> dict[str, Any]:
    """What the model of a variant is: parameters, operations, and which activations it has.

    Raises:
        UserError: the model cannot be built.
    """
    try:
        found = explain(with_variant(cfg, variant))
    except UserError as error:
        raise UserError(f"{variant.label}: {error}") from error
    others = sum(each.is_site for each in found.kept)
    return {
        "parameters": found.parameters,
        "flops": None if found.not_run else found.flops + found.added_flops,
        "shape": list(found.shape),
        "acons": sum(len(each.name.split(", ")) for each in found.activations),
        "sites": sum(len(each.name.split(", ")) for each in found.activations) + others,
        "network": [
            [str(variant.act_cfg), variant.lr_mult],
            *[[each.name, each.type, str(each.options)] for each in found.activations],
            *[[each.name, each.type] for each in found.kept if each.is_site],
        ],
    }


def different(cfg: Config, candidates: Sequence[Variant], described: dict[str, Any]) -> list[Variant]:
    """Those that make different networks: at other sites, ReLU may be what was there."""
    chosen: dict[str, Variant] = {}
    for each in candidates:
        if each.label not in described:
            described[each.label] = describe(cfg, each)
        chosen.setdefault(str(described[each.label]["network"]), each)
    return list(chosen.values())
