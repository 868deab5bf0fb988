"""How long a model takes to build, unchanged and with an activation at all of its sites."""

import time
from copy import deepcopy
from statistics import median
from typing import NamedTuple

from ...convert.sites import find_sites
from . import configs
from .check import build, silence


class BuildTimes(NamedTuple):
    """Medians over the rounds.

    Attributes:
        unchanged, switched: milliseconds.
        extra: the share that switching adds.
        sites: how many activations were switched.
    """

    unchanged: float
    switched: float
    extra: float
    sites: int

    def __str__(self) -> str:
        return (
            f"{self.unchanged:.0f} ms unchanged, {self.switched:.0f} ms with {self.sites} activations switched: "
            f"{100 * self.extra:+.1f} %"
        )


def build_times(config: str, act_cfg: dict, rounds: int = 15) -> BuildTimes:
    """Build a shipped config's model with and without ``act_cfg`` on its backbone and heads, in turn.

    Components without activations of their own (an FPN) stay as they are. The first round, which looks classes up and
    rewrites methods, does not count.
    """
    with silence():
        return _build_times(configs.model_of(config), config.partition("/")[0], act_cfg, rounds)


def _build_times(original: dict, package: str, act_cfg: dict, rounds: int) -> BuildTimes:
    model = build(original, package)
    parts = {path: find_sites(model.get_submodule(path))[0] for path in configs.components(original)}
    leave_out = ("", *(path for path, sites in parts.items() if not sites))
    asked = configs.ask(original, act_cfg, leave_out)
    pairs = [(_time(original, package), _time(asked, package)) for _ in range(rounds + 1)][1:]
    plain, switched = (1000 * median(times) for times in zip(*pairs, strict=True))
    return BuildTimes(plain, switched, median(b / a for a, b in pairs) - 1, sum(map(len, parts.values())))


def _time(model_cfg: dict, package: str) -> float:
    cfg = deepcopy(model_cfg)
    began = time.perf_counter()
    build(cfg, package)
    return time.perf_counter() - began
