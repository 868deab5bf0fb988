"""Runs a model once on random pictures, and counts the calls of its activations."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from mmengine.model import BaseModel
from torch import nn

from ...compat import FlopCounterMode
from ...layers import Acon
from ..config_coverage import samples
from ..config_coverage.passes import attempt, short
from ..config_coverage.trace import Trace, explain

Shapes = dict[Acon, list[tuple[int, ...]]]


@dataclass
class Run:
    """What was seen.

    Attributes:
        inference: the shape of each input, by the module that got it, for one picture.
        training: likewise in training. It is only computed if an ACON is not called in inference.
        flops: the multiply-adds of the convolutions and matrix products in inference, without those in ACONs.
        left_over: ReLU-like calls that no table knows: of functions, or of a module's own activations.
        not_run: the error of each pass that fails, by its name.
    """

    inference: Shapes = field(default_factory=lambda: defaultdict(list))
    training: Shapes = field(default_factory=lambda: defaultdict(list))
    flops: int = 0
    left_over: list[str] = field(default_factory=list)
    not_run: dict[str, str] = field(default_factory=dict)


def run(model: BaseModel, shape: tuple[int, int], acons: Collection[Acon], others: Collection[nn.Module]) -> Run:
    """Run a model on pictures of this height and width.

    Args:
        model: a detector or segmentor.
        shape: height and width.
        acons: the modules whose calls are counted.
        others: the modules that make other known activation calls.
    """
    result, trace = Run(), Trace()
    passes = samples.passes(model)
    if not passes:
        result.not_run["inference"] = f"{type(model).__name__} is none of mmdet's or mmseg's kinds of model"
    for each in sorted(passes, key=lambda each: each.train):
        if each.train and all(result.inference.get(module) for module in acons):
            break
        shapes = result.training if each.train else result.inference
        with FlopCounterMode(display=False) as counter, _recorded(acons, shapes, counter) as inside:
            _, error = attempt(model, each, shape, trace)
        if error:
            result.not_run[each.name] = short(error)
        if not each.train:
            # PyTorch counts a multiply-add as two operations; mmengine and we count it as one.
            result.flops += (counter.get_total_flops() - sum(inside)) // 2
    unknown = {call for call in trace.calls if call.module not in others}
    result.left_over = explain(model, unknown)[1]
    return result


@contextlib.contextmanager
def _recorded(modules: Collection[Acon], shapes: Shapes, counter: FlopCounterMode) -> Iterator[list[int]]:
    """Add the shape of each module's inputs to ``shapes``. The list gets what ``counter`` counts inside of them."""
    inside: list[int] = []

    def before(module: Acon, args: tuple) -> None:
        shapes[module].append(tuple(args[0].shape))
        inside.append(-counter.get_total_flops())

    def after(module: Acon, args: tuple, output: object) -> None:
        inside.append(counter.get_total_flops())

    handles = [module.register_forward_pre_hook(before) for module in modules]
    handles += [module.register_forward_hook(after) for module in modules]
    try:
        yield inside
    finally:
        for handle in handles:
            handle.remove()
