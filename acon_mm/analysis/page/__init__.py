"""Pages that need no network: tables that sort, and figures with tips."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import NamedTuple

from matplotlib import rc_context
from matplotlib.figure import Figure

from ...files import write_file


class Cell(NamedTuple):
    """A cell of a table: its text, the number to sort by (NaN: none), and a class for the look."""

    text: str
    value: float | str | None = None
    look: str = ""


def number(value: float | None, form: str = ".4g") -> Cell:
    return Cell("", "") if value is None else Cell(format(value, form), value)


def document(title: str, body: Sequence[str], tips: Mapping[str, str] | None = None) -> str:
    """A whole page.

    Args:
        title: plain text.
        body: pieces of HTML.
        tips: texts that are shown over parts of the figures, by the ``gid`` of the part, which starts with ``tip-``.
    """
    data = json.dumps(tips or {}).replace("<", "\\u003c")
    template = Template((files(__package__) / "page.html").read_text())
    return template.substitute(title=escape(title), body="\n".join(body), tips=data)


def table(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """A table whose columns sort its rows."""
    heads = "".join(f"<th scope=col><button type=button>{escape(each)}</button></th>" for each in head)
    lines = []
    for row in rows:
        cells = []
        for cell in row:
            value = "" if cell.value is None else f' data-value="{cell.value}"'
            cells.append(f'<td class="{escape(cell.look)}"{value}>{escape(cell.text)}</td>')
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f'<table class="sortable"><thead><tr>{heads}</tr></thead><tbody>\n' + "\n".join(lines) + "\n</tbody></table>"


class Picture(NamedTuple):
    """A figure as it is written into files and pages; its SVG's ids start with its name."""

    name: str
    png: bytes
    svg: str

    def save(self, directory: Path) -> None:
        """Write ``NAME.png`` and ``NAME.svg``."""
        for suffix, content in ((".png", self.png), (".svg", self.svg)):
            write_file(directory / (self.name + suffix), content)

    def html(self, caption: str, inline: bool = True) -> str:
        """As SVG in the page, so that its parts have tips; figures of thousands of curves as PNG."""
        data = base64.b64encode(self.png).decode()
        image = self.svg if inline else f'<img alt="{self.name}" src="data:image/png;base64,{data}">'
        return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def rendered(figure: Figure, name: str) -> Picture:
    """Draw a figure, which takes a while."""
    with style():
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # where things are is known now; it takes as long as drawing
        png, svg = io.BytesIO(), io.StringIO()
        figure.savefig(png, format="png", dpi=130)
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    text = svg.getvalue()
    text = text[text.index("<svg") :]
    # Several can be in one page.
    text = re.sub(r'\bid="(?!tip-)', f'id="{name}-', text)
    return Picture(name, png.getvalue(), re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", text))


def style() -> AbstractContextManager[None]:
    """The look of our figures: text stays text in SVG."""
    return rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "acon_mm",
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.3,
            "legend.frameon": False,
            "figure.dpi": 110,
        }
    )
