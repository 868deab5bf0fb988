"""Host time a call: tiny tensors, so that the device waits for the host."""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import nn

from ...compat import strict_zip
from ..benchmark.measure import forward, forward_backward
from . import kinds
from .checks import Setting, chosen, synchronize

_SHAPE = (2, 64, 8, 8)
PASSES = ("forward", "forward + backward")


@dataclass
class HostTime:
    """A row of the table."""

    name: str
    #: one of :data:`PASSES`; forward is without gradients
    passes: str
    microseconds: float
    #: over those of SiLU and BatchNorm2d in the same rounds
    over_silu: float
    over_batch_norm: float
    #: the ratio to reach on a GPU, such as "1.2 x BatchNorm2d"; empty for the peers
    goal: str


#: the goals on a GPU, forward and forward + backward
_GOALS = {
    "AconC": ("2.0 x SiLU", "1.2 x BatchNorm2d"),
    "MetaAconC": ("1.8 x BatchNorm2d", "2.2 x BatchNorm2d"),
}


def measure(setting: Setting, with_modules: bool) -> Iterator[HostTime]:
    """The time of a call of each activation and of its peers, in turn."""
    modules: dict[str, nn.Module] = {"ReLU": nn.ReLU(), "SiLU": nn.SiLU(), "BatchNorm2d": nn.BatchNorm2d(_SHAPE[1])}
    for kind in kinds.of_this_machine(with_modules):
        if kind.main and chosen(kind.name, setting.only):
            modules[kind.name] = kind.build(_SHAPE[1], 1)
    for module in modules.values():
        module.to(setting.device)
    x = torch.randn(_SHAPE, device=setting.device)
    for index, passes in enumerate(PASSES):
        calls = {
            name: forward_backward(module, x, torch.randn_like(x)) if index else forward(module, x)
            for name, module in modules.items()
        }
        times = _in_turn(calls, setting, rounds=5 if setting.quick else 9, calls_a_round=60 if index else 120)
        for name, taken in times.items():
            goals = _GOALS.get(name, ("", "")) if setting.on_gpu else ("", "")
            yield HostTime(
                name,
                passes,
                1e6 * min(taken),
                median(a / b for a, b in strict_zip(taken, times["SiLU"])),
                median(a / b for a, b in strict_zip(taken, times["BatchNorm2d"])),
                goals[index],
            )


def _in_turn(
    calls: dict[str, Callable[[], object]], setting: Setting, rounds: int, calls_a_round: int
) -> dict[str, list[float]]:
    """Seconds of a call in each round, by name."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    gc.collect()
    gc.disable()
    try:
        for call in calls.values():
            for _ in range(20):
                call()
        for _ in range(rounds):
            for name, call in calls.items():
                synchronize(setting.device)
                start = time.perf_counter()
                for _ in range(calls_a_round):
                    call()
                synchronize(setting.device)
                times[name].append((time.perf_counter() - start) / calls_a_round)
    finally:
        gc.enable()
    return times


def rows(found: Sequence[HostTime]) -> list[list[str]]:
    """The table, with its head."""
    head = ["", "passes", "us", "x SiLU", "x BatchNorm2d", "goal"]
    return [
        head,
        *(
            [t.name, t.passes, f"{t.microseconds:.1f}", f"{t.over_silu:.2f}", f"{t.over_batch_norm:.2f}", t.goal]
            for t in found
        ),
    ]
