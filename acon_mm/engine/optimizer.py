"""Weight decay and learning rate of ACON's parameters, by the module that they belong to."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.optim import Optimizer

from ..compat import strict_zip
from ..layers import Acon
from ..registering import register

#: entries of a parameter group that have one value for each of its parameters
_PER_PARAMETER = ("params", "param_names")


@register(OPTIM_WRAPPER_CONSTRUCTORS)
class AconOptimWrapperConstructor:
    """Sets weight decay and learning rate of all that belongs to ACONs. Another constructor does the rest::

        optim_wrapper = dict(
            constructor="AconOptimWrapperConstructor",
            paramwise_cfg=dict(acon=dict(decay_mult=0), norm_decay_mult=0),
        )

    The settings are in ``paramwise_cfg.acon``; all others in ``paramwise_cfg`` are for the other constructor. The
    parameters are found by the module that they belong to, so their names do not matter.

    - ``decay_mult``: the weight decay of an ACON is this times that of the optimizer, whatever other rules say.
      Default: 0, as in the authors' training.
    - ``lr_mult``: the learning rate of an ACON is this times the one that the other constructor gives it, which may
      depend on the layer. Default: 1.
    - ``generator``: whether the layers inside an ACON count as well: Meta-ACON's generator, and the convolution and
      norms of ACON-FReLU. Default: False, only the values per channel.
    - ``constructor``: the other constructor. Default: ``'DefaultOptimWrapperConstructor'``.

    Raises:
        ValueError: a setting is unknown, is no number of 0 or more, or does not go with the optimizer.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None):
        others = _copy_of("paramwise_cfg", paramwise_cfg)
        settings = _copy_of("paramwise_cfg.acon", others.pop("acon", None))
        constructor = settings.pop("constructor", "DefaultOptimWrapperConstructor")
        self.decay_mult = settings.pop("decay_mult", 0.0)
        self.lr_mult = settings.pop("lr_mult", 1.0)
        self.with_generator = settings.pop("generator", False)
        if settings:
            raise ValueError(
                f"paramwise_cfg.acon takes decay_mult, lr_mult, generator and constructor, got {', '.join(settings)}"
            )
        for name, value in (("decay_mult", self.decay_mult), ("lr_mult", self.lr_mult)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise ValueError(f"paramwise_cfg.acon.{name} must be a finite number of 0 or more, got {value!r}")
        if not isinstance(self.with_generator, bool):
            raise ValueError(f"paramwise_cfg.acon.generator must be True or False, got {self.with_generator!r}")
        cfg = {"type": constructor, "optim_wrapper_cfg": optim_wrapper_cfg, "paramwise_cfg": others or None}
        self.others = OPTIM_WRAPPER_CONSTRUCTORS.build(cfg)

    def __call__(self, model: nn.Module) -> OptimWrapper | OptimWrapperDict:
        optim_wrapper = self.others(model)
        owned = {id(p) for p in self._parameters(model) if p.requires_grad}
        found = 0
        for each in optim_wrapper.values() if isinstance(optim_wrapper, OptimWrapperDict) else [optim_wrapper]:
            if isinstance(each.optimizer, ZeroRedundancyOptimizer):
                raise ValueError(
                    "AconOptimWrapperConstructor does not work with ZeroRedundancyOptimizer, which divides the "
                    "parameters among the processes when it is made: leave out one of the two"
                )
            found += _set(each.optimizer, owned, self.decay_mult, self.lr_mult)
            if each.base_param_settings is None and len(each.optimizer.param_groups) > 1:
                # As an OptimWrapper has it that is made with several groups: the log shows the base learning rate.
                each.base_param_settings = {"params": torch.tensor([0.0]), **each.optimizer.defaults}
        if owned and not found:
            raise ValueError(
                "AconOptimWrapperConstructor does not find the ACONs' parameters in the optimizer: a wrapper of the "
                "model (FSDP) may have put them into others. Use use_orig_params=True, or another constructor"
            )
        print_log(
            f"paramwise_cfg.acon: decay_mult={self.decay_mult}, lr_mult={self.lr_mult} for {found} tensors of ACONs",
            logger="current",
        )
        return optim_wrapper

    def _parameters(self, model: nn.Module) -> Iterator[nn.Parameter]:
        for module in model.modules():
            if isinstance(module, Acon):
                yield from module.parameters(recurse=self.with_generator)


def _copy_of(name: str, value: dict | None) -> dict:
    if not isinstance(value or {}, dict):
        raise ValueError(f"{name} must be a dict, got {value!r}")
    return dict(value or {})


def _set(optimizer: Optimizer, owned: set[int], decay_mult: float, lr_mult: float) -> int:
    """Put the owned parameters into groups of their own, behind the others, and return how many there are."""
    rest: list[dict[str, Any]] = []
    own: list[dict[str, Any]] = []
    for group in optimizer.param_groups:
        is_owned = [id(p) in owned for p in group["params"]]
        if not all(is_owned):
            rest.append(_part(group, [not each for each in is_owned]))
        if any(is_owned):
            part = _part(group, is_owned)
            part["lr"] = part["lr"] * lr_mult
            if "weight_decay" in optimizer.defaults:
                part["weight_decay"] = optimizer.defaults["weight_decay"] * decay_mult
            own.append(part)
    optimizer.param_groups[:] = rest + own
    return sum(len(group["params"]) for group in own)


def _part(group: dict[str, Any], chosen: list[bool]) -> dict[str, Any]:
    """The parameter group with some of its parameters. A complete one stays the same object."""
    if all(chosen):
        return group
    some = {
        key: [value for value, use in strict_zip(group[key], chosen) if use] for key in _PER_PARAMETER if key in group
    }
    return group | some
