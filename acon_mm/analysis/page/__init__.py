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

from ...files import replacing


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


def picture(figure: Figure, name: str, caption: str, inline: bool = True) -> str:
    """A figure as SVG in the page, so that its parts have tips; those of thousands of curves as a picture."""
    if inline:
        image = svg(figure, prefix=name)
    else:
        image = f'<img alt="{name}" src="data:image/png;base64,{base64.b64encode(png(figure)).decode()}">'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


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


def svg(figure: Figure, prefix: str) -> str:
    """The figure as an SVG element. Its ids start with the prefix, so that several can be in one page."""
    file = io.StringIO()
    with style():
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'\bid="(?!tip-)', f'id="{prefix}-', text)
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", text)


def png(figure: Figure) -> bytes:
    file = io.BytesIO()
    with style():
        figure.savefig(file, format="png", dpi=130)
    return file.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Write the figure as ``path.png`` and ``path.svg``."""
    for suffix, content in ((".png", png(figure)), (".svg", svg(figure, path.name).encode())):
        with replacing(path.with_name(path.name + suffix)) as file:
            file.write(content)
