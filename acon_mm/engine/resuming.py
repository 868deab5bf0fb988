"""A hook that refuses to resume where the optimizer of the checkpoint is another than that of the config."""

from __future__ import annotations

from itertools import chain
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.optim import Optimizer

from ..checkpoints import CheckpointError
from ..checkpoints.reading import is_real
from ..compat import strict_zip
from ..errors import UserError

#: what the usual optimizers remember of each parameter, in its shape
_OF_ITS_SHAPE = ("momentum_buffer", "exp_avg", "square_avg", "sum")
#: settings of all optimizers, which older PyTorch does not have
_OF_ALL = {"foreach", "maximize", "capturable", "differentiable", "fused", "decoupled_weight_decay"}


class ResumeCheckHook(Hook):
    """Compares the optimizers before anything is loaded: PyTorch compares sizes only, and names no cause.

    Raises:
        UserError: the type or the groups of the optimizer, or the shapes of its parameters, are not those of the
            checkpoint; or what the optimizer remembers is not finite.
    """

    priority = "VERY_HIGH"

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        saved: Any = checkpoint.get("optimizer")
        wrapper: Any = runner.optim_wrapper
        if saved is None:
            return
        # A dict of wrappers has a dict of states.
        for name, each in getattr(wrapper, "optim_wrappers", {None: wrapper}).items():
            if difference := _difference((saved if name is None else saved.get(name)) or {}, each.optimizer):
                raise UserError(
                    f"cannot resume from {runner._load_from}: {difference}. Its activations, or the type or groups of "
                    "the optimizer (optim_wrapper.constructor and paramwise_cfg), are not those of the config. Resume "
                    "with the config of that run, or start a new training with its weights, without --resume: "
                    f"--cfg-options load_from={runner._load_from}"
                )


def _difference(state: dict, optimizer: Optimizer) -> str | None:
    """What differs between the state dict of an optimizer and an optimizer; None: nothing."""
    groups = state.get("param_groups", [])
    saved, own = ([group["params"] for group in each] for each in (groups, optimizer.param_groups))
    sizes, own_sizes = list(map(len, saved)), list(map(len, own))
    if sizes != own_sizes:
        return (
            f"its optimizer has {sum(sizes)} tensors in groups of {sizes!s:.40}, that of the config "
            f"{sum(own_sizes)} in groups of {own_sizes!s:.40}"
        )
    for group in groups:
        if missing := sorted(optimizer.defaults.keys() - group.keys() - _OF_ALL):
            return f"its optimizer has no {', '.join(missing)}, which {type(optimizer).__name__} needs"
    for index, parameter in strict_zip(chain(*saved), chain(*own)):
        remembered = state["state"].get(index, {})
        for key, value in [(key, remembered[key]) for key in _OF_ITS_SHAPE if remembered.get(key) is not None]:
            if not is_real(value) or not value.isfinite().all():
                raise CheckpointError(f"the optimizer's {key} in the checkpoint is not of finite real numbers")
            if value.shape != parameter.shape:
                return f"its optimizer has the shape {tuple(value.shape)} where the config has {tuple(parameter.shape)}"
    return None
