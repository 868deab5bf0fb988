"""Checks one model: with ACON everywhere, is each activation an ACON that fits, and is everything else unchanged?"""

import gc
import time
from collections import Counter

from torch import nn

from ...convert import NoActivationsError
from ...convert.sites import Site, find_sites
from ...layers import Acon
from .. import shipped_configs
from ..build import build_small, no_output
from .passes import run_passes, short


def check(model_cfg: dict, package: str, act_cfg: dict) -> dict:
    """Build a model, load weights into it, run it and compute gradients, unchanged and with ``act_cfg``.

    Returns:
        A dictionary for JSON. Its ``status`` is

        - ``'converted'``: no problem was found
        - ``'none'``: the model has no activation for ``act_cfg``
        - ``'unbuildable'``: its own package does not build it
        - ``'failed'``: ``problems`` says why
    """
    start, cpu_start = time.perf_counter(), time.process_time()
    try:
        with no_output():
            result = _check(model_cfg, package, act_cfg)
    finally:
        gc.collect()  # modules refer to each other in circles and hold gigabytes
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    return {**result, "seconds": round(seconds, 1), "cpu_seconds": round(cpu_seconds, 1)}


def _check(model_cfg: dict, package: str, act_cfg: dict) -> dict:
    try:
        original = build_small(model_cfg, package)
    except Exception as error:
        return {"status": "unbuildable", "error": short(error)}
    sites, kept = find_sites(original)
    result = {"sites": len(sites), "kept": dict(Counter(kept.values()))}
    problems = {"cannot be converted": [f"{site.name}: {site.problem}" for site in sites if site.problem]}
    try:
        model = build_small(_with_act_cfg(model_cfg, package, act_cfg, original), package)
    except NoActivationsError as error:
        problems["activations, but none was found"] = run_passes(original, original).unexplained
        return _finished({**result, "error": str(error)}, problems, status="none")
    except Exception as error:
        problems["does not build with ACON"] = [short(error)]
        return _finished(result, problems, status="failed")
    problems["keys"] = _wrong_keys(model, original, sites)
    problems["not converted"] = [site.name for site in find_sites(model)[0] if not isinstance(site.current, Acon)]
    run = run_passes(model, original)
    problems["wrong channels"] = run.wrong_channels
    problems["fails with ACON alone"] = run.broken
    problems["left over"] = run.unexplained
    problems["never called"] = run.never_called
    problems["without gradient"] = run.without_gradient
    result |= {
        "converted": len({module for module in model.modules() if isinstance(module, Acon)}),
        "not_reached": len(run.not_reached),
        "kept_calls": dict(Counter(run.kept.values())),
        "passes": run.passes,
        "not_run": run.not_run,
        "unused": run.unused,
    }
    return _finished(result, problems, status="converted")


def _finished(result: dict, problems: dict[str, list], status: str) -> dict:
    """The result with the problems that there are; any problem means ``'failed'``."""
    problems = {name: found for name, found in problems.items() if found}
    return {**result, "status": "failed" if problems else status, "problems": problems}


def _with_act_cfg(model_cfg: dict, package: str, act_cfg: dict, original: nn.Module) -> dict:
    """``act_cfg`` on the model, and on each component that has activations or gets some by an ``act_cfg``."""
    leave_out = [
        path
        for path in shipped_configs.components(model_cfg)
        if not _can_activate(model_cfg, package, act_cfg, original, path)
    ]
    return shipped_configs.with_act_cfg(model_cfg, act_cfg, leave_out)


def _can_activate(model_cfg: dict, package: str, act_cfg: dict, original: nn.Module, path: str) -> bool:
    try:
        component = original.get_submodule(path)
    except AttributeError:
        return False
    if find_sites(component)[0]:
        return True
    part = shipped_configs.part_at(model_cfg, path)
    if not shipped_configs.takes_act_cfg(part, package):
        return False
    # An FPN has activations only if it is given an act_cfg. Other classes without activations take act_cfg and
    # ignore it.
    try:
        build_small({**part, "act_cfg": act_cfg, "act_sites": "all"}, package)
    except NoActivationsError:
        return False
    return True


def _wrong_keys(model: nn.Module, original: nn.Module, sites: list[Site]) -> list[str]:
    """Load the unchanged model's weights; return the keys that are missing or unexpected and should not be."""
    acons = {name: module for name, module in model.named_modules(remove_duplicate=False) if isinstance(module, Acon)}
    new = {f"{name}.{key}" for name, module in acons.items() for key in module.state_dict()}
    replaced = tuple(f"{site.path}." for site in sites if site.current is not None)  # a PReLU has a weight
    loaded = model.load_state_dict(original.state_dict(), strict=False)
    unexpected = [key for key in loaded.unexpected_keys if not key.startswith(replaced)]
    return unexpected + sorted(set(loaded.missing_keys) - new)
