"""How long a model takes to build, unchanged and with ``act_cfg`` at all of its sites."""

import gc
from collections.abc import Callable
from functools import partial
from statistics import median

import torch

from ...convert.sites import find_sites
from .. import shipped_configs
from ..benchmark.measure import interleaved, ratios
from ..build import build, no_output


def build_times(config: str, act_cfg: dict, rounds: int = 15) -> str:
    """Build the model of a shipped config in turn without and with ``act_cfg`` on its backbone and heads.

    Components without activations (an FPN) stay as they are. The result has medians over the rounds.
    """
    package = config.partition("/")[0]
    with no_output():
        original = shipped_configs.model_of(config)
        model = build(original, package)
        sites = {path: len(find_sites(model.get_submodule(path))[0]) for path in shipped_configs.components(original)}
        leave_out = ["", *(path for path, count in sites.items() if not count)]
        converted = shipped_configs.with_act_cfg(original, act_cfg, leave_out)
        builds: dict[str, Callable[[], object]] = {
            "unchanged": partial(build, original, package),
            "converted": partial(build, converted, package),
            "freed": gc.collect,  # models refer to themselves in circles
        }
        times = interleaved(builds, seconds=0, device=torch.device("cpu"), min_rounds=rounds)
    milliseconds = {name: 1000 * median(taken) for name, taken in times.items()}
    extra = ratios(times, "unchanged")["converted"] - 1
    return (
        f"{milliseconds['unchanged']:.0f} ms unchanged, {milliseconds['converted']:.0f} ms with {sum(sites.values())} "
        f"activations converted: {100 * extra:+.1f} %"
    )
