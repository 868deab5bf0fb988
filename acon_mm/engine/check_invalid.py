"""A hook that stops a run at a NaN or an infinity, before it reaches a checkpoint."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

import torch
from mmengine.hooks import Hook, LoggerHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from ..checkpoints.comparison import unwrapped
from ..checkpoints.reading import is_real, not_finite
from ..errors import DataError, UserError
from ..registering import register
from .data_checks import check_labels, check_usable


@register(HOOKS)
class CheckInvalidHook(Hook):
    """Stops a run that computes with NaN or infinity, or learns from nothing. The tools use it for every run.

    - The losses are checked before their gradients are computed. So the weights stay as they were, and the layers are
      computed again to find the first one that is not finite.
    - The weights are checked before a run and before each checkpoint is written.
    - In validation and tests, the outputs of a model's parts must have no NaN.
    - The training data must have something to learn from, and no label beyond the classes.

    ``default_hooks = dict(check_invalid=None)`` turns it off.

    Raises:
        DataError: a loss is not finite, an output is NaN, or a label is beyond the classes.
        UserError: weights are not finite, or no picture has something to learn from.
    """

    priority = "VERY_HIGH"

    def before_train(self, runner: Runner) -> None:
        if runner.max_iters < 1:
            raise UserError(
                f"train_cfg trains for {runner.max_iters} iterations: max_epochs or max_iters must be at least 1"
            )
        _check_weights(runner)
        check_usable(runner.train_dataloader.dataset)
        unwrapped(runner.model).register_forward_hook(_check_losses, with_kwargs=True)

    def before_test(self, runner: Runner) -> None:
        _check_weights(runner)
        for hook in runner.hooks:  # each process would write the same file of metrics, at the same time
            if runner.rank > 0 and isinstance(hook, LoggerHook):
                hook.after_test_epoch = lambda *_, **__: None

    def _before_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, mode: str = "train") -> None:
        check_labels(data_batch, unwrapped(runner.model), getattr(runner, f"{mode}_dataloader").dataset)

    def _before_epoch(self, runner: Runner, mode: str = "train") -> None:
        parts = unwrapped(runner.model).named_modules() if mode != "train" else ()
        self._handles = [
            part.register_forward_hook(partial(_check_output, name)) for name, part in parts if name.count(".") < 2
        ]

    def _after_epoch(self, runner: Runner, mode: str = "train") -> None:
        for handle in self._handles:
            handle.remove()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if names := not_finite(checkpoint["state_dict"]):
            raise UserError(
                f"the checkpoint of iteration {runner.iter + 1} is not written: {names} would not be finite, after a "
                "gradient that was not. Try a lower learning rate or optim_wrapper.clip_grad=dict(max_norm=35)"
            )


def _check_weights(runner: Runner) -> None:
    if names := not_finite(unwrapped(runner.model).state_dict()):
        raise UserError(f"the weights are not finite: {names}. Use a checkpoint from before")


def _check_output(name: str, module: nn.Module, args: tuple, output: Any) -> None:
    if any(is_real(each) and each.isnan().any() for each in tree_flatten(output)[0]):
        raise DataError(
            f"the output of {name} is NaN, so no metric would mean anything: check the weights, and mean and std of "
            "data_preprocessor"
        )


def _check_losses(model: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
    if not (model.training and torch.is_grad_enabled() and isinstance(output, dict)):
        return
    finite = [each.isfinite().all() for each in tree_flatten(output)[0] if isinstance(each, Tensor)]
    if not finite or torch.stack(finite).all():  # waits for the device once
        return
    names = ", ".join(name for name, value in output.items() if _any_invalid(value))
    raise DataError(
        f"{names} is not finite. {_first_invalid(model, args, kwargs)}. The weights have not been changed by this "
        "batch, and no checkpoint has been written since"
    )


def _first_invalid(model: nn.Module, args: tuple, kwargs: dict) -> str:
    """Compute a batch again; which layer is the first whose output is not finite."""
    if _any_invalid((args, kwargs)):
        return "The input of the model is not finite"
    found: list[str] = []
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.SyncBatchNorm):  # not together with the other processes, which do not compute again
            module.eval()
            module.running_mean = module.running_var = None
        handles.append(module.register_forward_hook(partial(_note, found, name)))
    with suppress(Exception), torch.no_grad():
        model(*args, **kwargs)
    for handle in handles:
        handle.remove()
    if not (layer := next(filter(None, found), None)):
        return "The outputs of all layers are finite, so it comes from the loss or the annotations"
    weights = not_finite(model.get_submodule(layer).state_dict())
    return f"The first layer that is not finite is {layer}" + (f", because of its weights: {weights}" * bool(weights))


def _note(found: list[str], name: str, module: nn.Module, args: tuple, output: Any) -> None:
    if _any_invalid(output):
        found.append(name)


def _any_invalid(value: Any) -> bool:
    tensors = (each for each in tree_flatten(value)[0] if isinstance(each, Tensor) and each.is_floating_point())
    return any(not each.isfinite().all() for each in tensors)
