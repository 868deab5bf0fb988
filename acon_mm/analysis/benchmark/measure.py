"""Timing on a noisy machine: every candidate once a round, ratios within the round, medians over the rounds."""

import ctypes
import gc
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

# malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4


def pin_allocator() -> bool:
    """Make glibc keep freed memory instead of handing it back to the system; False where that cannot be done.

    Otherwise every large tensor is mapped anew, and the page faults hide what is measured.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        return bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1) and mallopt(_M_MMAP_MAX, 0))
    return False


def peak_bytes(function: Callable[[], object], device: torch.device) -> int:
    """Bytes that a call needs at most beyond those in use, in a process that has needed less than that so far.

    On a CPU they are the process's resident memory. glibc is told to hand back what is freed, so that it is counted no
    longer: measure times in another process.

    Raises:
        OSError: the system does not tell what a process needed (Linux does).
    """
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        function()
        return torch.cuda.max_memory_allocated(device) - before
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 16)
        libc.malloc_trim(0)
    before = _resident("VmRSS")
    function()
    # Not getrusage's maximum, which a new process takes over from the one that started it.
    return _resident("VmHWM") - before


def interleaved(
    candidates: dict[str, Callable[[], object]],
    seconds: float,
    device: torch.device,
    min_rounds: int = 5,
    inputs: Sequence[Tensor] = (),
) -> dict[str, list[float]]:
    """Seconds of every candidate in every round, after one round to warm up.

    Args:
        candidates: what to call, by name.
        seconds: how long to go on; at least ``min_rounds`` rounds, at most 400.
        device: whose work is waited for.
        inputs: read before each call, so that all find them in the cache alike: as far as they fit there, as after the
            layer that made them.
    """
    names, order = list(candidates), random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in names}
    start, rounds = time.perf_counter(), -1
    gc.disable()
    try:
        while rounds < min_rounds or (time.perf_counter() - start < seconds and rounds < 400):
            # Nobody may always follow the same neighbour, who leaves other things behind in cache and allocator.
            order.shuffle(names)
            for name in names:
                for tensor in inputs:
                    tensor.sum()
                taken = _time(candidates[name], device)
                if rounds >= 0:
                    times[name].append(taken)
            rounds += 1
    finally:
        gc.enable()
    return times


def ratios(times: dict[str, list[float]], peer: str) -> dict[str, float]:
    """Median over the rounds of each candidate's time over the peer's in the same round."""
    return {
        name: median(mine / theirs for mine, theirs in zip(taken, times[peer], strict=True))
        for name, taken in times.items()
    }


def kept_bytes(function: Callable[[Tensor], Tensor], x: Tensor, own: list[Tensor]) -> int:
    """Bytes that autograd keeps for backward beside the parameters ``own``."""
    kept: dict[int, int] = {}
    parameters = {t.untyped_storage().data_ptr() for t in own}

    def pack(t: Tensor) -> Tensor:
        if t.untyped_storage().data_ptr() not in parameters:
            kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        function(x)
    return sum(kept.values())


def _resident(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}")


def _time(function: Callable[[], object], device: torch.device) -> float:
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
