"""Timing on a noisy machine: each candidate runs once per round; medians over the rounds of ratios within a round."""

import ctypes
import gc
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from statistics import median

import torch
from torch import Tensor, nn

from ...compat import strict_zip

# malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def pin_allocator() -> bool:
    """Make glibc keep freed memory instead of returning it to the system. Returns False where this does not work.

    Otherwise every large tensor is mapped anew, and the page faults hide what is measured.
    """
    with suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        return bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1) and mallopt(_M_MMAP_MAX, 0))
    return False


def interleaved(
    candidates: dict[str, Callable[[], object]],
    *,
    seconds: float,
    device: torch.device,
    min_rounds: int = 5,
    inputs: Sequence[Tensor] = (),
) -> dict[str, list[float]]:
    """Time candidates in turn: the seconds of each one in each round, after one round to warm up.

    Args:
        candidates: functions to call, by name.
        seconds: how long to measure; at least ``min_rounds`` rounds, at most 400.
        device: the device that the functions compute on.
        inputs: tensors that are read before each call. Then all candidates find them in the same state of the cache,
            as after the layer that made them.
    """
    names, order = list(candidates), random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in names}
    start, rounds = time.perf_counter(), -1
    gc.disable()
    try:
        while rounds < min_rounds or (time.perf_counter() - start < seconds and rounds < 400):
            # A candidate must not always run after the same other one, which leaves its traces in cache and allocator.
            order.shuffle(names)
            for name in names:
                for tensor in inputs:
                    tensor.sum()
                taken = _seconds(candidates[name], device)
                if rounds >= 0:
                    times[name].append(taken)
            rounds += 1
    finally:
        gc.enable()
    return times


def forward(module: nn.Module, x: Tensor) -> Callable[[], object]:
    x = x.detach()

    def call() -> None:
        with torch.no_grad():
            module(x)

    return call


def forward_backward(module: nn.Module, x: Tensor, grad: Tensor) -> Callable[[], object]:
    x = x.detach().requires_grad_()
    tensors = [x, *module.parameters()]

    def call() -> None:
        for each in tensors:
            each.grad = None
        module(x).backward(grad)

    return call


def ratios(times: dict[str, list[float]], reference: str) -> dict[str, float]:
    """Each candidate's time over the reference's time in the same round; medians over the rounds."""
    return {
        name: median(time / of_reference for time, of_reference in strict_zip(taken, times[reference]))
        for name, taken in times.items()
    }


def kept_bytes(function: Callable[[Tensor], Tensor], x: Tensor, own: list[Tensor]) -> int:
    """Bytes that autograd keeps for backward, without the parameters ``own``."""
    kept: dict[int, int] = {}
    parameters = {t.untyped_storage().data_ptr() for t in own}

    def pack(t: Tensor) -> Tensor:
        if t.untyped_storage().data_ptr() not in parameters:
            kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        function(x)
    return sum(kept.values())


def _seconds(function: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        function()
        after.record()
        after.synchronize()
        return before.elapsed_time(after) / 1e3
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
