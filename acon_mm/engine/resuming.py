"""A hook that refuses to resume where the optimizer of the checkpoint is another than that of the config."""

from __future__ import annotations

from itertools import chain

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.optim import Optimizer

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
            checkpoint.
    """

    priority = "VERY_HIGH"

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        saved = checkpoint.get("optimizer")
        if saved is None:
            return
        several = getattr(runner.optim_wrapper, "optim_wrappers", None)
        pairs = [(saved, runner.optim_wrapper)]
        if several is not None:
            pairs = [(saved.get(name), each) for name, each in several.items()]
        for state, wrapper in pairs:
            if difference := _difference(state, wrapper.optimizer):
                raise UserError(
                    f"cannot resume from {runner._load_from}: {difference}. Its activations, or the type or groups of "
                    "the optimizer (optim_wrapper.constructor and paramwise_cfg), are not those of the config. Resume "
                    "with the config of that run, or start a new training with its weights, without --resume: "
                    f"--cfg-options load_from={runner._load_from}"
                )


def _difference(state: dict | None, optimizer: Optimizer) -> str | None:
    """What differs between the state dict of an optimizer and an optimizer; None: nothing."""
    saved = [group["params"] for group in (state or {}).get("param_groups", [])]
    own = [group["params"] for group in optimizer.param_groups]
    if [len(group) for group in saved] != [len(group) for group in own]:
        return f"its optimizer has {_counts(saved)}, that of the config {_counts(own)}"
    for group in (state or {}).get("param_groups", []):
        if missing := sorted(optimizer.defaults.keys() - group.keys() - _OF_ALL):
            return f"its optimizer has no {', '.join(missing)}, which {type(optimizer).__name__} needs"
    for index, parameter in strict_zip(chain(*saved), chain(*own)):
        remembered = state["state"].get(index, {})  # type: ignore[index]
        for shape in [remembered[key].shape for key in _OF_ITS_SHAPE if remembered.get(key) is not None]:
            if shape != parameter.shape:
                return f"its optimizer has the shape {tuple(shape)} where the config has {tuple(parameter.shape)}"
    return None


def _counts(groups: list[list]) -> str:
    sizes = [len(group) for group in groups]
    shown = ", ".join(map(str, sizes[:4])) + ", ..." * (len(sizes) > 4)
    return f"{sum(sizes)} tensors in {len(sizes)} group{'s' * (len(sizes) != 1)} ({shown})"
