"""The memory of a training step as a picture: by kind, and over the depth of the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...compat import strict_zip
from ..comparison.figures import COLORS
from ..page import style
from .layers import KINDS
from .measure import RELU, Memory
from .report import MIB, sentence


def figure(found: Mapping[str, Memory], title: str, limit_gib: float) -> Figure:
    """Bars of what is kept, by kind, and below it what is kept as the step goes through the network."""
    with style():
        made = Figure(figsize=(8.5, 6.2), layout="constrained")
        bars, depth = made.subplots(2, height_ratios=[1, 1.6])
        made.suptitle(f"{title}\n{sentence(found, limit_gib)}", fontsize=10)
        _by_kind(bars, found)
        _over_depth(depth, found)
    return made


def _by_kind(axes: Axes, found: Mapping[str, Memory]) -> None:
    for row, memory in enumerate(found.values()):
        left = 0.0
        for kind, color in zip(KINDS, COLORS[1:]):
            size = memory.by_kind[kind] / MIB
            axes.barh(row, size, 0.6, left=left, color=color, label=None if row else kind)
            left += size
        ratio = f" ({memory.kept[0] / found[RELU].kept[0]:.2f} x ReLU)" if row else ""
        axes.text(left, row, f" {left:,.0f} MiB{ratio}", va="center")
    axes.set_yticks(range(len(found)), list(found))
    axes.invert_yaxis()
    axes.set_xlim(0, 1.3 * max(memory.kept[0] for memory in found.values()) / MIB)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("kept for backward, MiB")
    axes.legend(ncols=len(KINDS), loc="lower center", bbox_to_anchor=(0.45, 1.0))


def _over_depth(axes: Axes, found: Mapping[str, Memory]) -> None:
    order = found[RELU].modules
    places = {name: index for index, name in enumerate(order)}
    for (label, memory), color, width in strict_zip(found.items(), ("#BBBBBB", COLORS[1]), (5, 1.5)):
        sizes = [0.0] * len(order)
        for each in memory.layers:
            sizes[_place(each.module, places)] += each.bytes / MIB
        axes.plot(range(len(order)), list(accumulate(sizes)), color=color, linewidth=width, label=label)
    ticks = _stages(order)
    axes.set_xticks(list(ticks.values()), list(ticks), ha="left")
    axes.set_xlim(0, len(order))
    axes.set_ylim(0)
    axes.set_xlabel("layers, in the order in which they run")
    axes.set_ylabel("kept up to there, MiB")
    axes.legend(loc="upper left")


def _place(module: str, places: Mapping[str, int]) -> int:
    """The place of a module. The layers inside of an ACON have that of the ACON."""
    while module and module not in places:
        module = module.rpartition(".")[0]
    return places.get(module, 0)


def _stages(order: Sequence[str]) -> dict[str, int]:
    """The parts of a model that have several layers, and the place of the first layer of each."""
    stages: dict[str, list[int]] = {}
    for index, name in enumerate(order):
        first, _, rest = name.partition(".")
        inside, _, below = rest.partition(".")
        if first == "backbone" and below:
            stages.setdefault(inside, []).append(index)
        elif first != "backbone" and rest:
            stages.setdefault(first, []).append(index)
    shown: dict[str, int] = {}
    for name, (index, *others) in stages.items():
        # Closer ticks would cover each other.
        if others and (not shown or index - max(shown.values()) >= len(order) / 16):
            shown[name] = index
    return shown
