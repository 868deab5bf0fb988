"""Builds the model of a config, and lists its activations: what they are, what they add, and why others were kept."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.analysis import FlopAnalyzer
from mmengine.config import Config
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from ...convert.sites import Site, find_sites, submodule
from ...errors import UserError
from ...layers import Acon
from .. import shipped_configs
from ..build import build, no_output
from ..config_coverage.passes import short
from .picture_shape import picture_shape
from .run import Run, run

#: when an activation runs
ALWAYS, TRAINING, NEVER, UNKNOWN = "always", "training only", "never", "unknown"

FUNCTION = "function"
UNKNOWN_CALL = "acon_mm does not know this call"


@dataclass(frozen=True)
class Activation:
    """An ACON of a model.

    Attributes:
        name: the name of its site; of all its sites, if one module serves several.
        type: the class.
        options: those of the class, with their values.
        channels, channel_dim: see :class:`acon_mm.layers.base.Acon`.
        parameters: their number.
        frozen: whether none of them is trained.
        runs: ``'always'``, ``'training only'``, ``'never'``, or ``'unknown'`` because the model does not run.
        shapes: of the input of each call, in inference with one picture; where it runs in training only, those of a
            training step with two.
        flops: the operations of these calls (:mod:`acon_mm.ops.flop_counts`).
    """

    name: str
    type: str
    options: dict[str, Any]
    channels: int
    channel_dim: int
    parameters: int
    frozen: bool
    runs: str
    shapes: list[tuple[int, ...]]
    flops: int

    @property
    def elements(self) -> list[int]:
        """The number of elements of each call."""
        return [math.prod(shape) for shape in self.shapes]


@dataclass(frozen=True)
class Kept:
    """An activation that is not an ACON.

    Attributes:
        name: its site, its module, or the call in the source.
        type: the class; ``'function'`` if it is none.
        reason: why it is not an ACON.
        is_site: whether ``act_cfg`` could have replaced it.
    """

    name: str
    type: str
    reason: str
    is_site: bool


@dataclass(frozen=True)
class Explanation:
    """What a config becomes.

    Attributes:
        model: the class.
        shape: height and width of the picture that the costs are for.
        parameters: those of the whole model.
        flops: the multiply-adds of all convolutions and matrix products outside of ACONs in inference.
        activations: the ACONs, in the order of the model's modules.
        kept: the other activations.
        not_run: why the model could not run, by the name of the pass. The costs are then incomplete.
    """

    model: str
    shape: tuple[int, int]
    parameters: int
    flops: int
    activations: list[Activation]
    kept: list[Kept]
    not_run: dict[str, str]

    @property
    def added_parameters(self) -> int:
        return sum(each.parameters for each in self.activations)

    @property
    def added_flops(self) -> int:
        """In inference."""
        return sum(each.flops for each in self.activations if each.runs == ALWAYS)


def explain(cfg: Config, shape: tuple[int, int] | None = None) -> Explanation:
    """What the config of a detector or segmentor becomes. No weights and no data are read.

    The model has random weights. Its heads get as many boxes as ``test_cfg`` allows, without a limit on the score.

    Args:
        cfg: with ``model`` and ``default_scope``.
        shape: height and width of the picture for the costs; None: those in the config.

    Raises:
        UserError: the model cannot be built; or the config does not say how large its pictures are.
    """
    shape = shape or picture_shape(cfg)
    model_cfg = shipped_configs.without_weights(cfg.model.to_dict())
    with no_output():
        try:
            model = revert_sync_batchnorm(build(_with_all_boxes(model_cfg), cfg.default_scope))
        except Exception as error:
            raise UserError(f"the model cannot be built: {short(error)}") from error
        return _explain(model, model_cfg, cfg.default_scope, shape)


def _explain(model: BaseModel, model_cfg: dict, package: str, shape: tuple[int, int]) -> Explanation:
    sites, kept = find_sites(model)
    names = {
        module: [site.name for site in sites if site.current is module] or [name]
        for name, module in model.named_modules()
        if isinstance(module, Acon)
    }
    others = [site for site in sites if not isinstance(site.current, Acon)]
    frozen = {module for module in names if not any(each.requires_grad for each in module.parameters())}
    model.requires_grad_(False)  # the counter of operations fails on layers that get a parameter which learns
    # At a site without a module, the caller calls a function.
    seen = run(model, shape, names, {site.current or model.get_submodule(site.caller) for site in others})
    return Explanation(
        model=type(model).__name__,
        shape=shape,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        flops=seen.flops,
        activations=[_activation(module, each, module in frozen, seen) for module, each in names.items()],
        kept=[
            *(Kept(site.name, _type(site.current), _reason(site, model_cfg, package), is_site=True) for site in others),
            *_kept(model, kept),
            *(Kept(call, FUNCTION, UNKNOWN_CALL, is_site=False) for call in seen.left_over),
        ],
        not_run=seen.not_run,
    )


def _activation(module: Acon, names: Sequence[str], frozen: bool, seen: Run) -> Activation:
    assert module.num_channels is not None  # a model with an ACON that does not know them is not built
    runs = _runs(module, seen)
    shapes = {ALWAYS: seen.inference, TRAINING: seen.training}.get(runs, {}).get(module, [])
    return Activation(
        name=", ".join(names),
        type=type(module).__name__,
        options=_options(module),
        channels=module.num_channels,
        channel_dim=1 if module.channel_dim is None else module.channel_dim,
        parameters=sum(each.numel() for each in module.parameters()),
        frozen=frozen,
        runs=runs,
        shapes=shapes,
        flops=sum(operations(module, each) for each in shapes),
    )


def operations(module: Acon, shape: Sequence[int]) -> int:
    """The operations of one call in evaluation, as mmengine counts them."""
    counter = FlopAnalyzer(deepcopy(module).eval(), torch.rand(*shape))
    return counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False).total()


def _runs(module: Acon, seen: Run) -> str:
    if seen.inference.get(module):
        return ALWAYS
    if seen.not_run:  # where a pass stopped, the layers after that place were not called
        return UNKNOWN
    return TRAINING if seen.training.get(module) else NEVER


def _options(module: Acon) -> dict[str, Any]:
    """The arguments of the class that the module keeps as attributes, without those that depend on the site."""
    bases = type(module).__mro__[: type(module).__mro__.index(Acon) + 1]
    names = [name for base in reversed(bases) for name in inspect.signature(base).parameters]
    left_out = ("num_channels", "channel_dim", "batch_first", "inplace")
    return {name: getattr(module, name) for name in names if name not in left_out and hasattr(module, name)}


def _kept(model: nn.Module, kept: dict[str, str]) -> Iterator[Kept]:
    seen = set()  # a module can have several names
    for name, reason in kept.items():
        module = submodule(model, name)
        if not isinstance(module, Acon) and (module is None or module not in seen):
            seen.add(module)
            yield Kept(name, _type(module), reason, is_site=False)


def _type(module: nn.Module | None) -> str:
    return FUNCTION if module is None else type(module).__name__


def _reason(site: Site, model_cfg: dict, package: str) -> str:
    """Why a site has no ACON."""
    if site.problem:
        return f"cannot be converted: {site.problem}"
    inside = [path for path in shipped_configs.components(model_cfg) if f"{site.name}.".startswith(f"{path}.")]
    component = max(inside, key=len, default="")
    for path in sorted({"", *inside}, key=len, reverse=True):
        part = shipped_configs.part_at(model_cfg, path)
        if part.get("act_cfg") is not None:
            where = path or "the model"
            if type(site.current) is _class_of(part["act_cfg"], package):
                return f"set by the act_cfg of {where}"
            default = "" if part.get("act_sites") else "default "
            return f"not among the {default}act_sites of {where}"
    return f"no act_cfg for {component or 'the model'}"


def _class_of(act_cfg: dict, package: str) -> type:
    name = act_cfg["type"]
    with DefaultScope.overwrite_default_scope(package), MODELS.switch_scope_and_registry(None) as models:
        return models.get(name) if isinstance(name, str) else name


def _with_all_boxes(model_cfg: dict, inside: bool = False) -> dict:
    """The model without the limits on scores in ``test_cfg``: with random weights, no box would pass them."""

    def changed(key: str, value: Any) -> Any:
        if inside and key == "score_thr":
            return 0.0
        return _with_all_boxes(value, inside or key == "test_cfg") if isinstance(value, dict) else value

    return {key: changed(key, value) for key, value in model_cfg.items()}
