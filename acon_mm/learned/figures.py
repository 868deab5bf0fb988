"""Figures of what activations have learned."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ..compat import strict_zip
from .layer import GRID, KINDS, Layer

_COLORS = {"linear": "#0072B2", "relu": "#D55E00", "other": "#888888"}
_NAMES = {"linear": "near linear", "relu": "like ReLU", "other": "other"}
#: more curves than this hide each other
_CURVES = 128
_COLUMNS = 4

#: what the figures show, by their names
CAPTIONS = {
    "curves": "The curve of every channel. Where Meta-ACON computes beta, it is the mean over pictures of the test.",
    "spreads": "How p1, p2 and beta are spread over the channels: median, quartiles, and 5 to 95 %.",
    "shares": "Activate or not: channels that are near linear, like ReLU, or other.",
    "betas_by_picture": "Beta of Meta-ACON for single pictures: over the channels, median, quartiles and range.",
    "betas_by_class": "Beta of Meta-ACON by class: the mean over pictures with an object of the class.",
    "maps": "Beta of the pixel-wise Meta-ACON over pictures, averaged over channels.",
}


def learned(layers: Sequence[Layer], before: Sequence[Layer] = ()) -> dict[str, Figure]:
    """The figures that need no pictures, by name; none without ACONs. ``before``: the layers at the start."""
    if not layers:
        return {}
    return {"curves": curves(layers, before), "shares": shares(layers), "spreads": spreads(layers)}


def curves(layers: Sequence[Layer], before: Sequence[Layer] = ()) -> Figure:
    """A small plot for each layer: the curve of every channel, colored by what it is near to.

    Args:
        layers: after training.
        before: the same at the start; their mean curve is dashed.
    """
    starts = {layer.name: layer for layer in before}
    figure, all_axes = _grid(len(layers))
    x = GRID.numpy()
    for layer, axes in strict_zip(layers, all_axes):
        values, kinds = layer.curves().numpy(), layer.kinds().numpy()
        chosen = np.linspace(0, len(values) - 1, min(_CURVES, len(values))).round().astype(int)
        for channel in chosen:
            color = _COLORS[KINDS[kinds[channel]]]
            axes.plot(x, values[channel], color=color, alpha=min(0.8, max(0.12, 3 / len(chosen))), linewidth=0.7)
        axes.plot(x, x.clip(0), ":", color="black", linewidth=1)
        if layer.name in starts:
            axes.plot(x, starts[layer.name].curves().numpy().mean(0), "--", color="black", linewidth=1)
        _title(axes, layer)
        axes.set_ylim(*_limits(values))
    handles = [axes.plot([], [], color=_COLORS[kind], label=_NAMES[kind])[0] for kind in KINDS]
    handles += axes.plot([], [], ":", color="black", label="ReLU")
    if starts:
        handles += axes.plot([], [], "--", color="black", label="at the start (mean)")
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    return figure


def _limits(values: np.ndarray) -> tuple[float, float]:
    """Few channels with steep curves must not flatten all others."""
    low, high = np.quantile(values, [0.01, 0.99])
    room = 0.15 * max(high - low, 0.1)
    return low - room, high + room


def _title(axes: Axes, layer: Layer) -> None:
    shares = layer.shares()
    axes.set_title(
        f"{layer.name}\n{shares['linear']:.0%} linear, {shares['relu']:.0%} ReLU, {len(layer.p1)} channels", fontsize=6
    )
    axes.tick_params(labelsize=6)


def spreads(layers: Sequence[Layer]) -> Figure:
    """How p1, p2 and beta are spread over the channels of each layer: median, quartiles, 5 % and 95 %."""
    figure = Figure(figsize=(9, 1 + 0.22 * len(layers)), layout="constrained")
    names = [layer.name for layer in layers]
    for index, name in enumerate(("p1", "p2", "beta")):
        axes = figure.add_subplot(1, 3, index + 1)
        for row, layer in enumerate(layers):
            values: Tensor | None = getattr(layer, name)
            if values is not None:
                low, first, middle, third, high = np.quantile(values.numpy(), [0.05, 0.25, 0.5, 0.75, 0.95])
                axes.plot([low, high], [row, row], color="#0072B2", linewidth=1)
                axes.plot([first, third], [row, row], color="#0072B2", linewidth=5, alpha=0.5)
                axes.plot([middle], [row], "|", color="black", markersize=8)
        axes.set_title(name)
        axes.set_ylim(len(layers) - 0.5, -0.5)
        axes.set_yticks(range(len(layers)), names if index == 0 else [""] * len(layers), fontsize=6)
        axes.tick_params(axis="x", labelsize=7)
        axes.locator_params(axis="x", nbins=4)
    return figure


def shares(layers: Sequence[Layer]) -> Figure:
    """Activate or not: the share of channels of each layer that are near linear, like ReLU, or other."""
    figure = Figure(figsize=(7.5, 1 + 0.22 * len(layers)), layout="constrained")
    axes = figure.add_subplot()
    left = np.zeros(len(layers))
    for kind in KINDS:
        widths = np.array([layer.shares()[kind] for layer in layers])
        axes.barh(range(len(layers)), widths, left=left, color=_COLORS[kind], label=_NAMES[kind], height=0.75)
        left += widths
    axes.set_yticks(range(len(layers)), [layer.name for layer in layers], fontsize=6)
    axes.set_ylim(len(layers) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of channels")
    figure.legend(loc="outside upper center", ncols=len(KINDS))
    return figure


def betas_by(groups: Mapping[str, Mapping[str, Tensor]], title: str) -> Figure:
    """The beta of each layer for several pictures, or for several classes.

    Args:
        groups: for each layer the mean beta of each channel, ``(C,)``, by the name of the picture or class.
        title: what the groups are.
    """
    figure, all_axes = _grid(len(groups))
    for (name, rows), axes in strict_zip(groups.items(), all_axes):
        axes.boxplot([values.numpy() for values in rows.values()], showfliers=False, widths=0.6)
        axes.set_xticks(range(1, len(rows) + 1), list(rows), fontsize=5, rotation=60 if len(rows) > 4 else 0)
        axes.tick_params(axis="y", labelsize=6)
        axes.set_title(name, fontsize=6)
    figure.suptitle(f"beta by {title}: median, quartiles and range over the channels", fontsize=9)
    return figure


def maps(pictures: Sequence[np.ndarray], betas: Mapping[str, Sequence[np.ndarray]]) -> Figure:
    """Beta over each picture for the pixel-wise generator, averaged over channels: a row for each picture."""
    columns = 1 + len(betas)
    figure = Figure(figsize=(1.8 * columns, 1.9 * len(pictures)), layout="constrained")
    for row, picture in enumerate(pictures):
        for column, (name, image) in enumerate([("picture", picture), *((n, m[row]) for n, m in betas.items())]):
            axes = figure.add_subplot(len(pictures), columns, row * columns + column + 1)
            shown = axes.imshow(image, cmap="viridis")
            axes.axis("off")
            if row == 0:
                axes.set_title(name, fontsize=6)
            if column:
                figure.colorbar(shown, ax=axes, shrink=0.7).ax.tick_params(labelsize=5)
    return figure


def _grid(count: int) -> tuple[Figure, list[Axes]]:
    columns = min(_COLUMNS, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(2.2 * columns + 0.4, 1.8 * rows + 0.5), layout="constrained")
    return figure, [figure.add_subplot(rows, columns, index + 1) for index in range(count)]
