"""The report of a load, which the log shows as one table."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import nn

from .acon_types import acons_of


@dataclass
class LoadReport:
    """What a model got from a checkpoint. The lists hold names of tensors, except ``inits``.

    Attributes:
        model: the class of the model.
        loaded: tensors from the checkpoint.
        started: tensors of ACONs for which the checkpoint has nothing. They keep their initial values.
        inits: these initial values and where they are: ``"AconC, init='relu': layer*.*.act2"``.
        missing: other tensors that the checkpoint does not have. They keep their initial values.
        dropped: tensors of the checkpoint that the model does not have.
        wrong_shape: tensors that have another shape in the checkpoint, and may have. They keep their initial values.
        folded: biases that were folded into the norm after them.
    """

    model: str
    loaded: list[str]
    started: list[str] = field(default_factory=list)
    inits: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    wrong_shape: list[str] = field(default_factory=list)
    folded: list[str] = field(default_factory=list)

    @property
    def level(self) -> int:
        """The level of the log: a warning if a tensor is missing or of the wrong shape, or if there is advice."""
        return logging.WARNING if self.missing or self.wrong_shape or self._advice() else logging.INFO

    def _advice(self) -> str | None:
        start = sorted({init for entry in self.inits for init in re.findall(r"init='(paper|swish)'", entry)})
        if not (start and self.loaded):
            return None
        change = "random" if "paper" in start else "SiLU"
        return (
            f"These ACONs start as {change}. If the other weights were trained with ReLU, set init='relu' in act_cfg, "
            "which starts close to it."
        )

    def __str__(self) -> str:
        rows = [
            ("from the checkpoint", self.loaded, ""),
            ("ACON's own, keep their init", self.started, "; ".join(self.inits)),
            ("others that keep their init", self.missing, summary(self.missing)),
            ("dropped, not in the model", self.dropped, summary(self.dropped)),
            ("dropped, of the wrong shape", self.wrong_shape, summary(self.wrong_shape)),
        ]
        if self.folded:
            rows.append(("folded into the next norm", self.folded, summary(self.folded)))
        head = f"Weights of {self.model}"
        wide = max(len(head), *(len(row[0]) for row in rows))
        lines = [f"{head:{wide}}  tensors"]
        lines += [f"{label:{wide}}  {len(names):7}  {detail}".rstrip() for label, names, detail in rows]
        return "\n".join([*lines, *([advice] if (advice := self._advice()) else [])])


def inits_of(model: nn.Module, places: Iterable[str]) -> list[str]:
    """The types and initial values of the ACONs at these places, and the places."""
    acons = acons_of(model)
    by_start: dict[str, list[str]] = {}
    for place in places:
        start = f"{type(acons[place]).__name__}, init={acons[place].init!r}"
        by_start.setdefault(start, []).append(place)
    return [f"{start}: {summary(found)}" for start, found in by_start.items()]


def summary(names: Iterable[str], most: int = 6) -> str:
    """A short list of names: ``*`` stands for numbers, so that ``layer*.*.act1`` is one entry for many names."""
    patterns = list(dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.|$)|(?<=layer)\d+", "*", name) for name in names))
    return ", ".join([*patterns[:most], *([f"{len(patterns) - most} more"] if len(patterns) > most else [])])
