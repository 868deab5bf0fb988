"""A training step on random pictures, and the memory that it takes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

from ...compat import event_start
from ...errors import UserError
from ..config_coverage import samples
from ..config_coverage.passes import short

#: the name of an event between the two halves of a step
_LOSS_IS_THERE = "acon_mm: the loss is there"


class Taken(NamedTuple):
    """What a step takes, in bytes, on top of what was there before.

    Attributes:
        kept: what is in use between loss and backward.
        peak: the most that is in use at a time.
    """

    kept: int
    peak: int


class TrainingStep:
    """A training step as mmengine does it, with the optimizer of a config, on random pictures with annotations.

    Args:
        model: a detector or a segmentor, on its device.
        cfg: with ``optim_wrapper`` and ``default_scope``.
        shape: height and width of the pictures.

    Raises:
        UserError: there are no random pictures for this kind of model; or its optimizer cannot be built.
    """

    def __init__(self, model: BaseModel, cfg: Config, shape: tuple[int, int]) -> None:
        batch = samples.training_batch(model)
        if batch is None:
            raise UserError(
                f"{type(model).__name__} does not learn from single pictures with labels, and there are no random data "
                "for others: take the config of a detector or of a segmentor"
            )
        self.model, self.shape = model.train(), shape
        self._batch = batch
        self._scope = cfg.default_scope
        try:
            with DefaultScope.overwrite_default_scope(self._scope):
                self._optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
        except Exception as error:
            raise UserError(f"the optim_wrapper cannot be built: {short(error)}") from error
        for group in self._optim_wrapper.optimizer.param_groups:
            group["lr"] = 0.0  # all steps have the same weights, and so the same boxes

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def standing(self) -> int:
        """The bytes that stay between two steps: weights, buffers, the optimizer's state; gradients if they add up."""
        tensors = [*self.model.parameters(), *self.model.buffers()]
        tensors += [each.grad for each in self.model.parameters() if each.grad is not None]
        for state in self._optim_wrapper.optimizer.state.values():
            tensors += [each for each in state.values() if isinstance(each, Tensor)]
        return _bytes(tensors)

    def data(self, count: int) -> tuple[Tensor, list]:
        """Pictures and their samples."""
        pictures, made = self._batch(self.shape, count=count)
        return pictures.to(self.device), [each.to(self.device) for each in made]

    def loss(self, pictures: Tensor, data_samples: list) -> Tensor:
        """The first half of a step.

        Raises:
            UserError: the model fails on these pictures.
        """
        torch.manual_seed(0)  # both twins choose the same boxes
        samples.set_progress()
        try:
            with DefaultScope.overwrite_default_scope(self._scope), self._optim_wrapper.optim_context(self.model):
                losses = self.model(pictures, data_samples, mode="loss")
            return self.model.parse_losses(losses)[0]
        except Exception as error:
            raise self._failed(len(pictures), error) from error

    def measured(self, count: int) -> Taken:
        """Do a step with this many pictures. The pictures count.

        On a CPU the memory is that of PyTorch's allocator, counted by its profiler.

        Raises:
            UserError: the model fails on these pictures.
        """
        data = self.data(count)
        there = _bytes([data[0]])
        if self.device.type == "cuda":
            before = torch.cuda.memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            loss = self.loss(*data)
            kept = torch.cuda.memory_allocated(self.device) - before
            self._update(count, loss)
            return Taken(kept, there + torch.cuda.max_memory_allocated(self.device) - before)
        os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # or PyTorch's profiler prints when it starts and stops
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            loss = self.loss(*data)
            with record_function(_LOSS_IS_THERE):
                pass
            self._update(count, loss)
        kept = total = peak = 0
        for event in sorted(profiler.profiler.kineto_results.events(), key=event_start):
            if event.name() == _LOSS_IS_THERE:
                kept = total
            elif event.name() == "[memory]":
                total += event.nbytes()
                peak = max(peak, total)
        return Taken(kept, there + peak)

    def _update(self, count: int, loss: Tensor) -> None:
        try:
            self._optim_wrapper.update_params(loss)
        except Exception as error:
            raise self._failed(count, error) from error

    def _failed(self, count: int, error: Exception) -> UserError:
        height, width = self.shape
        return UserError(
            f"a training step of {type(self.model).__name__} with {count} random pictures of {height} x {width} fails: "
            f"{short(error)}. Other pictures: --batch-size, --shape"
        )


def _bytes(tensors: Iterable[Tensor]) -> int:
    storages = {each.untyped_storage()._cdata: each.untyped_storage().nbytes() for each in tensors}
    return sum(storages.values())
