"""How long a model takes to build, unchanged and with ``act_cfg`` at all of its sites."""

import time
from copy import deepcopy
from statistics import median
from typing import NamedTuple

from ...compat import strict_zip
from ...convert.sites import find_sites
from .. import shipped_configs
from ..build import build, no_output


class BuildTimes(NamedTuple):
    """Medians over the rounds.

    Attributes:
        unchanged, converted: milliseconds.
        extra: the share of time that ``act_cfg`` adds.
        sites: the number of converted activations.
    """

    unchanged: float
    converted: float
    extra: float
    sites: int

    def __str__(self) -> str:
        return (
            f"{self.unchanged:.0f} ms unchanged, {self.converted:.0f} ms with {self.sites} activations converted: "
            f"{100 * self.extra:+.1f} %"
        )


def build_times(config: str, act_cfg: dict, rounds: int = 15) -> BuildTimes:
    """Build the model of a shipped config in turn without and with ``act_cfg`` on its backbone and heads.

    Components without activations (an FPN) stay as they are. The first round is not counted, because it also looks
    up classes and rewrites methods.
    """
    with no_output():
        return _build_times(shipped_configs.model_of(config), config.partition("/")[0], act_cfg, rounds)


def _build_times(original: dict, package: str, act_cfg: dict, rounds: int) -> BuildTimes:
    model = build(original, package)
    sites = {path: len(find_sites(model.get_submodule(path))[0]) for path in shipped_configs.components(original)}
    leave_out = ["", *(path for path, count in sites.items() if not count)]
    with_act_cfg = shipped_configs.with_act_cfg(original, act_cfg, leave_out)
    pairs = [(_time(original, package), _time(with_act_cfg, package)) for _ in range(rounds + 1)][1:]
    unchanged, converted = (1000 * median(times) for times in strict_zip(*pairs))
    extra = median(after / before for before, after in pairs) - 1
    return BuildTimes(unchanged=unchanged, converted=converted, extra=extra, sites=sum(sites.values()))


def _time(model_cfg: dict, package: str) -> float:
    cfg = deepcopy(model_cfg)
    start = time.perf_counter()
    build(cfg, package)
    return time.perf_counter() - start
