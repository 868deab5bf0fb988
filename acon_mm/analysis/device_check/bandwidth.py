"""Time of one activation on large tensors: over ``nn.SiLU``'s and, on a GPU, as a share of a copy's bandwidth.

On a GPU every call is a CUDA graph, so that the time of the host does not count. A pass reads or writes x once; the
share assumes the fewest passes that are possible.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from math import prod
from random import Random
from statistics import median

import torch
from torch import nn

from ...compat import strict_zip
from ..benchmark.measure import forward, forward_backward, interleaved
from . import inputs, kinds
from .checks import Setting, chosen
from .cuda_checks import captured
from .inputs import Case

#: what each kind moves at least: x in and y out; in backward x and the gradient in, a gradient out; the mean of
#: Meta-ACON reads x once more, and its gradient reads both once more
_MOVES = {"ACON-C": (2, 5), "Meta": (3, 8)}
#: the goals of the share on a GPU, in percent
_GOALS = {"ACON-C": (95, 88), "Meta": (85, 80)}

#: cycles of the GPU's clock in which the host launches a graph, so that the first event is not before it
_LAUNCH = 400_000

# At least 32 MB in any dtype: maps of a backbone and neck, maps of RoIs, and fully connected layers.
_GPU = (
    Case((16, 256, 100, 100)),
    Case((2, 64, 400, 400)),
    Case((16, 2048, 25, 25)),
    Case((1000, 256, 14, 14)),
    Case((2000, 256, 7, 7)),
    Case((20000, 1024)),
)
_CPU = (
    Case((2, 64, 200, 200)),
    Case((2, 2048, 25, 25)),
    Case((400, 256, 7, 7)),
    Case((100, 256, 14, 14)),
    Case((1000, 1024)),
)
_CPU_QUICK = (Case((2, 64, 100, 100)), Case((100, 256, 7, 7)), Case((256, 1024)))
#: shapes and dtypes by (on a GPU, quick)
_CASES: dict[tuple[bool, bool], tuple[Sequence[Case], Sequence[torch.dtype]]] = {
    (True, False): (_GPU, (torch.float32, torch.float16, torch.bfloat16)),
    (True, True): ((_GPU[0], _GPU[2], _GPU[4]), (torch.float32, torch.float16)),
    (False, False): (_CPU, (torch.float32, torch.bfloat16)),
    (False, True): (_CPU_QUICK, (torch.float32,)),
}


@dataclass
class Speed:
    """A row of the table: an activation on one tensor, and what a call of it takes."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    layout: str
    passes: str
    milliseconds: float
    over_silu: float
    #: percent of a copy's bandwidth; None on a CPU
    share: float | None
    goal: int | None
    #: 1e9 bytes a second of the copy
    copy_gigabytes: float


def measure(setting: Setting, with_modules: bool) -> Iterator[Speed]:
    """The rows of the table, as they are measured. :attr:`Setting.only` names activation, dtype, layout and shape."""
    cases, dtypes = _CASES[setting.on_gpu, setting.quick]
    main = kinds.main_of(kinds.of_this_machine(with_modules))
    for dtype, layout, case in product(dtypes, ("contiguous", "channels_last"), cases):
        if layout == "channels_last" and len(case.shape) != 4:
            continue
        label = f"{str(dtype)[6:]} {layout} {'x'.join(map(str, case.shape))}"
        some = [kind for kind in main if chosen(f"{kind.name} {label}", setting.only)]
        if some:
            yield from _measure(setting, some, case, dtype, layout)
            gc.collect()
            if setting.on_gpu:
                torch.cuda.empty_cache()


def _measure(
    setting: Setting, some: Sequence[kinds.Kind], case: Case, dtype: torch.dtype, layout: str
) -> Iterator[Speed]:
    x = inputs.LAYOUTS[layout](torch.randn(case.shape, device=setting.device).to(dtype))
    y, grad_y = torch.empty_like(x), torch.randn_like(x)
    modules: dict[str, nn.Module] = {kind.name: kind.random(case.channels, 1, setting.device) for kind in some}
    modules["SiLU"] = nn.SiLU()
    size = prod(case.shape) * x.element_size()
    for index, passes in enumerate(("forward", "forward + backward")):
        calls: dict[str, Callable[[], object]] = {
            name: forward_backward(module, x, grad_y) if index else forward(module, x)
            for name, module in modules.items()
        }
        calls["copy"] = partial(y.copy_, x)
        times = _times(calls, setting)
        copy = median(times["copy"])
        for kind in some:
            taken = median(times[kind.name])
            family = "Meta" if kind.depends_on_mean else "ACON-C"
            yield Speed(
                name=kind.name,
                shape=case.shape,
                dtype=str(dtype)[6:],
                layout=layout,
                passes=passes,
                milliseconds=1e3 * taken,
                over_silu=median(a / b for a, b in strict_zip(times[kind.name], times["SiLU"])),
                share=100 * _MOVES[family][index] / 2 * copy / taken if setting.on_gpu else None,
                goal=_GOALS[family][index] if setting.on_gpu else None,
                copy_gigabytes=2 * size / copy / 1e9,
            )


def _times(calls: dict[str, Callable[[], object]], setting: Setting) -> dict[str, list[float]]:
    """Seconds of each call, round by round."""
    if not setting.on_gpu:
        return interleaved(calls, seconds=0.3 if setting.quick else 1.0, device=setting.device)
    graphs = {name: captured(call)[0] for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    names, order = list(calls), Random(0)
    for count in range(-2, 12 if setting.quick else 20):  # the first two warm up
        order.shuffle(names)
        for name in names:
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(_LAUNCH)
            before.record()
            graphs[name].replay()
            after.record()
            after.synchronize()
            if count >= 0:
                times[name].append(before.elapsed_time(after) / 1e3)
    return times


def rows(found: Sequence[Speed]) -> list[list[str]]:
    """The table, with its head: forward and forward + backward side by side."""
    head = ["", "x", "dtype, layout", "copy GB/s", "forward", "forward + backward"]
    lines: dict[tuple, list[str]] = {}
    for speed in found:
        key = (speed.name, speed.shape, speed.dtype, speed.layout)
        line = lines.setdefault(
            key,
            [
                speed.name,
                "x".join(map(str, speed.shape)),
                f"{speed.dtype}, {speed.layout}",
                f"{speed.copy_gigabytes:.0f}",
            ],
        )
        share = "" if speed.share is None else f", {speed.share:.0f} % (goal {speed.goal})"
        line.append(f"{speed.milliseconds:.3f} ms, {speed.over_silu:.2f} x SiLU{share}")
    return [head, *lines.values()]
