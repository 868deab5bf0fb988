"""Draw the figures of the docs: ``python docs/make_figures.py`` writes ``docs/images/acon_curves.svg``."""

from pathlib import Path

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from acon_mm import functional
from acon_mm.compat import strict_zip
from acon_mm.files import replacing

IMAGES = Path(__file__).parent / "images"
#: by label: p1, p2 and beta
BETAS = {
    r"$\beta = 0$: linear": (1, 0, 0),
    r"$\beta = 0.4$": (1, 0, 0.4),
    r"$\beta = 1$: SiLU": (1, 0, 1),
    r"$\beta = 3$": (1, 0, 3),
    r"$\beta = 50$: as ReLU": (1, 0, 50),
}
SLOPES = {
    r"$p_1 = 1,\ p_2 = 0$": (1, 0, 2),
    r"$p_1 = 1,\ p_2 = 0.25$: leaky": (1, 0.25, 2),
    r"$p_1 = 1,\ p_2 = -0.5$": (1, -0.5, 2),
    r"$p_1 = 0.4,\ p_2 = -1$": (0.4, -1, 2),
}


def acon_curves() -> Figure:
    """ACON-C for several beta (left), and for several p1 and p2 (right)."""
    figure = Figure(figsize=(10, 4.2), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2, sharey=True)
    _draw(left, BETAS, r"$\beta$: from linear to ReLU   ($p_1 = 1,\ p_2 = 0$)", "viridis")
    _draw(right, SLOPES, r"$p_1,\ p_2$: the slopes on both sides   ($\beta = 2$)", "plasma")
    left.set_ylabel(r"$f(x) = d\, \sigma(\beta d) + p_2 x,\quad d = (p_1 - p_2)\, x$")
    return figure


def _draw(axes: Axes, curves: dict[str, tuple[float, float, float]], title: str, colormap: str) -> None:
    x = torch.linspace(-4, 4, 401)
    colors = matplotlib.colormaps[colormap](torch.linspace(0, 0.85, len(curves)).numpy())
    for (label, parameters), color in strict_zip(curves.items(), colors):
        p1, p2, beta = (torch.tensor([float(value)]) for value in parameters)
        y = functional.acon_c(x[:, None], p1, p2, beta)[:, 0]
        axes.plot(x.numpy(), y.numpy(), color=color, linewidth=2.2, label=label)
    axes.axhline(0, color="0.7", linewidth=0.8, zorder=0)
    axes.axvline(0, color="0.7", linewidth=0.8, zorder=0)
    axes.set(title=title, xlabel="x", xlim=(-4, 4), ylim=(-2, 4))
    axes.legend(loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def main(directory: Path = IMAGES) -> None:
    style = matplotlib.rc_context({"svg.hashsalt": "acon_mm", "font.size": 11})
    with style, replacing(directory / "acon_curves.svg") as file:
        acon_curves().savefig(file, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
