"""The pages of the documentation, taken apart: code blocks, links, headings and inline code."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: the folders of the repository that are named by paths such as `acon_mm/layers/acon.py`
FOLDERS = "acon_mm|configs|docs|tests|tools"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@dataclass
class Block:
    """A fenced code block.

    Attributes:
        line: number of its first line of code in the page.
        title: ``title="..."`` of the fence: the file that a reader saves it as.
        marks: HTML comments right before it, ``<!-- base: mmdet::... -->``, by the word before the colon.
    """

    page: Path
    line: int
    language: str
    title: str | None
    text: str
    marks: dict[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass
class Page:
    """A page: its code blocks, and its lines without them."""

    path: Path
    blocks: list[Block]
    prose: str

    @property
    def links(self) -> list[str]:
        """The targets of links and images."""
        return re.findall(r"\]\(<?([^)>\s]+)>?(?:\s+\"[^\"]*\")?\)", self.prose)

    @property
    def inline_code(self) -> list[str]:
        return re.findall(r"`([^`\n]+)`", self.prose)

    @property
    def anchors(self) -> set[str]:
        """The anchors of the headings, as GitHub makes them."""
        found: Counter[str] = Counter()
        anchors = set()
        for heading in re.findall(r"^#+\s+(.+?)\s*$", self.prose, re.MULTILINE):
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
            slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
            anchors.add(f"{slug}-{found[slug]}" if found[slug] else slug)
            found[slug] += 1
        return anchors


def read(path: Path) -> Page:
    """A page taken apart.

    Raises:
        ValueError: a code block has no end.
    """
    blocks: list[Block] = []
    prose: list[str] = []
    fence: Block | None = None
    code: list[str] = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        opening = re.match(r"```(\w*)(.*)$", line)
        if fence is None and opening:
            title = re.search(r'title="([^"]+)"', opening[2])
            fence = Block(path, number + 1, opening[1], title[1] if title else None, "", _marks_before(prose))
            code = []
        elif fence is not None and line == "```":
            fence.text = "\n".join(code) + "\n"
            blocks.append(fence)
            fence = None
        elif fence is not None:
            code.append(line)
        else:
            prose.append(line)
    if fence is not None:
        raise ValueError(f"{fence.place}: the code block has no end")
    return Page(path, blocks, "\n".join(prose))


def _marks_before(prose: list[str]) -> dict[str, str]:
    marks: dict[str, str] = {}
    for line in reversed(prose):
        comment = re.fullmatch(r"<!--\s*([\w ]+?)\s*(?::\s*(.*?))?\s*-->", line)
        if not comment:
            break
        marks[comment[1]] = comment[2] or ""
    return marks
