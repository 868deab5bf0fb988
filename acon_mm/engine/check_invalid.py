"""A hook that stops a run at a NaN or an infinity, before it reaches a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import torch
from mmengine.hooks import Hook, LoggerHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn

from ..checkpoints.comparison import unwrapped
from ..checkpoints.reading import not_finite
from ..errors import DataError, UserError
from ..registering import register
from .data_checks import check_labels, check_usable


@register(HOOKS)
class CheckInvalidHook(Hook):
    """Stops a run that computes with NaN or infinity, or learns from nothing. The tools use it for every run.

    - The losses are checked after the backward pass and before the optimizer's step. So the weights stay as they were,
      and the layers are computed again to find the first one that is not finite.
    - The weights are checked before a run and before each checkpoint is written.
    - The training data must have something to learn from, and no label beyond the classes.

    ``default_hooks = dict(check_invalid=None)`` turns it off.

    Raises:
        DataError: a loss is not finite, or a label is beyond the classes.
        UserError: weights are not finite, or no picture has something to learn from.
    """

    priority = "VERY_HIGH"
    _batch: tuple[tuple, dict, dict[str, Tensor]] | None = None

    def before_train(self, runner: Runner) -> None:
        model = unwrapped(runner.model)
        self._check_weights(runner)
        check_usable(runner.train_dataloader.dataset)
        model.register_forward_hook(self._remember, with_kwargs=True)
        wrapper: Any = runner.optim_wrapper
        for each in getattr(wrapper, "optim_wrappers", {"": wrapper}).values():
            each.optimizer.register_step_pre_hook(lambda *_: self._check_losses(runner))

    def before_test(self, runner: Runner) -> None:
        self._check_weights(runner)
        for hook in runner.hooks:  # each process would write the same file of metrics, at the same time
            if runner.rank > 0 and isinstance(hook, LoggerHook):
                hook.after_test_epoch = lambda *_, **__: None

    def _before_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, mode: str = "train") -> None:
        check_labels(data_batch, unwrapped(runner.model), getattr(runner, f"{mode}_dataloader").dataset)

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        self._check_losses(runner)  # with accumulated gradients or loss scaling there may have been no step

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if names := not_finite(checkpoint["state_dict"]):
            raise UserError(
                f"the checkpoint of iteration {runner.iter + 1} is not written: {names} would not be finite, after a "
                "gradient that was not. Try a lower learning rate or optim_wrapper.clip_grad=dict(max_norm=35)"
            )

    def _remember(self, model: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        if model.training and isinstance(output, dict):
            losses = {name: list(_tensors(value)) for name, value in output.items()}
            self._batch = args, kwargs, {k: torch.stack([t.detach().sum() for t in v]) for k, v in losses.items() if v}

    def _check_losses(self, runner: Runner) -> None:
        if self._batch is None:
            return
        (args, kwargs, losses), self._batch = self._batch, None
        if not losses or torch.cat(list(losses.values())).isfinite().all():
            return
        names = ", ".join(name for name, value in losses.items() if not value.isfinite().all())
        samples = kwargs.get("data_samples") or []
        pictures = ", ".join(str(each.metainfo.get("img_path")) for each in samples if hasattr(each, "metainfo"))
        raise DataError(
            f"{names} is not finite in iteration {runner.iter + 1}. {_first_invalid(runner, args, kwargs)}. The "
            f"pictures: {pictures or 'unknown'}. The weights have not been changed by this batch, and no checkpoint "
            "has been written since"
        )

    def _check_weights(self, runner: Runner) -> None:
        if names := not_finite(unwrapped(runner.model).state_dict()):
            raise UserError(f"the weights are not finite: {names}. Use a checkpoint from before")


def _first_invalid(runner: Runner, args: tuple, kwargs: dict) -> str:
    """Compute a batch again; which layer is the first whose output is not finite."""
    if _any_invalid((args, kwargs)):
        return "The input of the model is not finite"
    model, found = unwrapped(runner.model), []
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.SyncBatchNorm):  # not together with the other processes, which do not compute again
            module.eval()
            module.running_mean = module.running_var = None
        look = lambda _, __, output, name=name: found.append(name) if _any_invalid(output) else None  # noqa: E731
        handles.append(module.register_forward_hook(look))
    with suppress(Exception), torch.no_grad(), runner.optim_wrapper.optim_context(runner.model):
        model(*args, **kwargs)
    for handle in handles:
        handle.remove()
    layer = next(filter(None, found), None)
    if layer is None:
        return "The outputs of all layers are finite, so it comes from the loss or the annotations"
    weights = not_finite(model.get_submodule(layer).state_dict())
    return f"The first layer that is not finite is {layer}" + (f", because of its weights: {weights}" * bool(weights))


def _any_invalid(value: Any) -> bool:
    return any(t.is_floating_point() and not t.isfinite().all() for t in _tensors(value))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (Mapping, list, tuple)):
        parts: Iterable = value.values() if isinstance(value, Mapping) else value
        for each in parts:
            yield from _tensors(each)
