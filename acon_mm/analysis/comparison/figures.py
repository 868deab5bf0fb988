"""The figures of a comparison. Each is drawn once, and used as PNG, as SVG and in the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...compat import strict_zip
from ..page import style

#: one for each variant, told apart also without red and green (Okabe and Ito)
COLORS = ("#333333", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8C6BB1")
_SIZE = (7.5, 3.6)
#: quantities of the cost, with unit and factor
COSTS = {
    "step_time": ("training step, ms", 1e3),
    "inference_time": ("inference, ms a picture", 1e3),
    "memory": ("peak memory, GiB", 1 / 2**30),
    "parameters": ("parameters, millions", 1e-6),
    "flops": ("multiply-adds, billions", 1e-9),
}


class Tips:
    """Texts that the page shows over parts of the figures, by the ``gid`` of the part."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def __call__(self, text: str) -> str:
        gid = f"tip-{len(self.texts)}"
        self.texts[gid] = text
        return gid


def figures(results: Mapping[str, Any], tips: Tips) -> dict[str, Figure]:
    """All figures for which there is something to draw, by name."""
    drawn: dict[str, Callable[[Mapping[str, Any], Tips], Figure | None]] = {
        "metric": metric,
        "difference": differences,
        "validation": validation,
        "loss": loss,
        "cost": cost,
    }
    with style():
        made = {name: draw(results, tips) for name, draw in drawn.items()}
    return {name: figure for name, figure in made.items() if figure is not None}


def _axes(size: tuple[float, float] = _SIZE) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.add_subplot()


def _colors(results: Mapping[str, Any]) -> dict[str, str]:
    return {each["label"]: COLORS[index % len(COLORS)] for index, each in enumerate(results["variants"])}


def metric(results: Mapping[str, Any], tips: Tips) -> Figure:
    """A dot for each run, and a bar at the mean."""
    variants = results["variants"]
    figure, axes = _axes((_SIZE[0], 1.0 + 0.45 * len(variants)))
    for row, each in enumerate(variants):
        color = _colors(results)[each["label"]]
        for seed, value in each["values"].items():
            text = f"{each['label']}, seed {seed}: {value:.4g}"
            axes.plot([value], [row], "o", color=color, alpha=0.6, markersize=7, gid=tips(text))
        if each["mean"] is not None:
            text = f"{each['label']}, mean of {len(each['values'])}: {each['mean']:.4g}"
            axes.plot([each["mean"]] * 2, [row - 0.3, row + 0.3], color=color, linewidth=3, gid=tips(text))
    _rows(axes, [each["label"] for each in variants])
    axes.set_xlabel(results["metric"])
    return figure


def differences(results: Mapping[str, Any], tips: Tips) -> Figure | None:
    """The paired difference to the first activation, with its interval."""
    variants = [each for each in results["variants"] if each["difference"] and each["difference"]["mean"] is not None]
    if not variants:
        return None
    figure, axes = _axes((_SIZE[0], 1.0 + 0.45 * len(variants)))
    axes.axvline(0, color=COLORS[0], linewidth=1)
    for row, each in enumerate(variants):
        found, color = each["difference"], _colors(results)[each["label"]]
        text = f"{each['label']} - {results['base']}: {found['mean']:+.4g}"
        if found["low"] is not None:
            text += f", 95 % interval {found['low']:+.4g} to {found['high']:+.4g}"
            axes.plot([found["low"], found["high"]], [row, row], color=color, linewidth=2, gid=tips(text))
        axes.plot([found["mean"]], [row], "o", color=color, markersize=8, gid=tips(text))
    _rows(axes, [each["label"] for each in variants])
    axes.set_xlabel(f"{results['metric']}: difference to {results['base']}")
    return figure


def _rows(axes: Axes, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)


def validation(results: Mapping[str, Any], tips: Tips) -> Figure | None:
    """The metric over training, where it was measured more than once."""

    def points(run: Mapping[str, Any]) -> dict[int, float]:
        lines = run["validation"]
        return {
            line["iter"]: line["metrics"][results["metric"]] for line in lines if results["metric"] in line["metrics"]
        }

    if max((len(points(run)) for run in results["runs"]), default=0) < 2:
        return None
    return _curves(results, tips, points, results["metric"])


def loss(results: Mapping[str, Any], tips: Tips) -> Figure | None:
    """The loss over training, at up to 40 points."""

    def points(run: Mapping[str, Any]) -> dict[int, float]:
        lines = run["steps"]
        every = max(1, len(lines) // 40)
        return {line["iter"]: line["loss"] for line in lines[every - 1 :: every]}

    if not any(map(points, results["runs"])):
        return None
    return _curves(results, tips, points, "loss in training")


def _curves(results: Mapping[str, Any], tips: Tips, points: Callable[[Mapping[str, Any]], dict], name: str) -> Figure:
    """The mean over the seeds, in a band from the lowest to the highest."""
    figure, axes = _axes()
    for label, color in _colors(results).items():
        runs = [points(run) for run in results["runs"] if run["variant"] == label and run["status"] == "done"]
        if not runs:
            continue
        steps = sorted(set.intersection(*(set(run) for run in runs)))
        values = np.array([[run[step] for step in steps] for run in runs])
        axes.fill_between(steps, values.min(0), values.max(0), color=color, alpha=0.15, linewidth=0)
        axes.plot(steps, values.mean(0), color=color, label=label)
        for step, column in strict_zip(steps, values.T):
            text = f"{label}, step {step}: {column.mean():.4g} ({column.min():.4g} to {column.max():.4g})"
            axes.plot([step], [column.mean()], "o", color=color, markersize=3.5, gid=tips(text))
    axes.set_xlabel("step")
    axes.set_ylabel(name)
    axes.legend()
    return figure


def cost(results: Mapping[str, Any], tips: Tips) -> Figure | None:
    """The metric against what it costs."""
    variants = [each for each in results["variants"] if each["mean"] is not None]
    names = [name for name in COSTS if any(each[name] for each in variants)]
    if not names:
        return None
    figure = Figure(figsize=(2.6 * min(3, len(names)), 2.6 * -(-len(names) // 3)), layout="constrained")
    for index, name in enumerate(names):
        axes = figure.add_subplot(-(-len(names) // 3), min(3, len(names)), index + 1)
        text, factor = COSTS[name]
        for each in variants:
            if each[name] is not None:
                tip = f"{each['label']}: {results['metric']} {each['mean']:.4g}, {text} {each[name] * factor:.4g}"
                color = _colors(results)[each["label"]]
                axes.plot([each[name] * factor], [each["mean"]], "o", color=color, gid=tips(tip), label=each["label"])
        axes.set_xlabel(text)
        axes.margins(0.2)
        if index == 0:
            axes.legend(fontsize=7)
        if index % 3 == 0:
            axes.set_ylabel(results["metric"])
    return figure
