"""What came out of a comparison, as plain values: the content of ``results.json``."""

from __future__ import annotations

import math
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch

from ...errors import UserError
from ...files import read_json
from ...version import __version__
from ..machine import processor
from .hook import read_lines
from .statistics import difference, spread

if TYPE_CHECKING:
    from .execute import Run

#: what a comparison is about, if nobody says: the first that a test has
METRICS = ("coco/bbox_mAP", "mIoU", "accuracy/top1", "pascal_voc/mAP")


def metrics_of(run: Run) -> dict[str, float]:
    """The metrics of the test of a run, the most used ones first; empty if it was not tested."""
    found = (read_json(run.directory / "test.json", "metrics") or {"metrics": {}})["metrics"]
    return {name: found[name] for name in sorted(found, key=lambda name: (name not in METRICS, name))}


def choose_metric(runs: Sequence[Run], asked: str | None) -> str:
    """The name of the metric to compare by.

    Raises:
        UserError: no run is done, or the tests have no metric of the name ``asked``.
    """
    tested = [metrics_of(run) for run in runs if run.done]
    if not tested:
        failures = [f". {run.name}: {run.failure}" for run in runs if run.failure]
        raise UserError("there is nothing to report, since no run is done" + (failures[0] if failures else ""))
    if asked is not None and asked not in tested[0]:
        raise UserError(f"--metric must be one of {', '.join(tested[0])}, got {asked!r}")
    return asked or next(iter(tested[0]))


def collect(
    runs: Sequence[Run], described: Mapping[str, dict], config: str, command: str, metric: str, less_is_better: bool
) -> dict[str, Any]:
    """The results of all runs, and of each variant beside the first.

    Args:
        runs: done, failed or neither.
        described: what :func:`describe` says of each variant, by its label.
        config: its name.
        command: that of the comparison.
        metric: the name of a metric.
        less_is_better: whether a smaller value of it is better.
    """
    labels = list(dict.fromkeys(run.variant.label for run in runs))
    table = {label: [_run(run, metric) for run in runs if run.variant.label == label] for label in labels}
    values = {
        label: {each["seed"]: each["value"] for each in rows if _has_value(each)} for label, rows in table.items()
    }
    variants = []
    for label in labels:
        mean, deviation = spread(list(values[label].values()))
        variants.append(
            {
                "label": label,
                "mean": mean,
                "std": deviation,
                "values": values[label],
                "failed": [each["seed"] for each in table[label] if each["status"] == "failed"],
                "difference": None
                if label == labels[0]
                else asdict(difference(values[label], values[labels[0]], less_is_better)),
                **{name: _mean_of(table[label], name) for name in ("step_time", "inference_time", "memory")},
                **{name: described[label][name] for name in ("parameters", "flops", "acons", "sites")},
            }
        )
    return {
        "config": config,
        "command": command,
        "metric": metric,
        "less_is_better": less_is_better,
        "base": labels[0],
        "shape": described[labels[0]]["shape"],
        "variants": variants,
        "runs": [each for rows in table.values() for each in rows],
        "starts": _starts(runs),
        "machine": machine(),
        "versions": versions(),
    }


def _has_value(row: Mapping[str, Any]) -> bool:
    return row["value"] is not None and math.isfinite(row["value"])


def _run(run: Run, metric: str) -> dict[str, Any]:
    trained, tested = (read_json(run.directory / f"{name}.json") or {} for name in ("trained", "test"))
    done = run.done
    status = "done" if done else "failed" if run.failure else "not done"
    metrics = metrics_of(run) if done else {}
    value = metrics.get(metric)
    if value is not None and not math.isfinite(value):
        value = None
    return {
        "variant": run.variant.label,
        "seed": run.seed,
        "status": status,
        "failure": run.failure,
        "value": value,
        "metrics": metrics,
        "step_time": trained.get("step_time"),
        "memory": trained.get("memory"),
        "inference_time": tested.get("time"),
        "seconds": done and done["seconds"],
        "start": (read_json(run.directory / "start.json") or {}).get("digest"),
        "steps": read_lines(run.directory / "steps.jsonl"),
        "validation": read_lines(run.directory / "validation.jsonl"),
        "directory": str(run.directory),
        "commands": [shlex.join(command) for command in run.commands()],
    }


def _mean_of(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    return spread([row[name] for row in rows if row[name] is not None])[0]


def _starts(runs: Sequence[Run]) -> dict[int, list[str]]:
    """The digests of the tensors outside of activations before the first step, by seed: one each if runs are alike."""
    found: dict[int, set[str]] = {}
    for run in runs:
        if start := read_json(run.directory / "start.json", "digest"):
            found.setdefault(run.seed, set()).add(start["digest"])
    return {seed: sorted(digests) for seed, digests in found.items()}


def versions() -> dict[str, str]:
    """Python and the packages that matter."""
    packages = [name for name in ("torch", "mmengine", "mmcv", "mmdet", "mmseg") if find_spec(name)]
    own = {"Python": platform.python_version(), "acon_mm": __version__}
    return own | {name: str(import_module(name).__version__) for name in packages}


def machine() -> str:
    """What computes, in words."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()} and {processor()}"
    threads = torch.get_num_threads()
    return f"{processor()}, {threads} {'thread' if threads == 1 else 'threads'}"
