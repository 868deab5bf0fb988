"""What a load did, as one table for the log."""

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import nn

from .acon_types import acons_of


@dataclass
class LoadReport:
    """What came into a model from a checkpoint; the lists hold names of tensors, as in a state dict.

    Attributes:
        model: class of the model.
        loaded: from the checkpoint.
        started: of ACONs about which the checkpoint says nothing: they keep their initial values.
        inits: how these start: ``"AconC, init='relu'"``.
        missing: other tensors of the model that the checkpoint has not.
        dropped: in the checkpoint, and not in the model.
        wrong_shape: of another size in the checkpoint, and allowed to be.
        folded: biases that went into the norm after them.
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
        """Of the log: a warning where something deserves a look."""
        return logging.WARNING if self.missing or self.wrong_shape or self._advice() else logging.INFO

    def _advice(self) -> str | None:
        start = sorted({init for entry in self.inits for init in re.findall(r"init='(paper|swish)'", entry)})
        if not (start and self.loaded):
            return None
        change = "random" if "paper" in start else "SiLU"
        return (
            f"These ACONs start as {change}, which is not what the other weights were trained with if that was ReLU: "
            "init='relu' in act_cfg starts close to it."
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
        lines += [f"{label:{wide}}  {len(names):7}  {note}".rstrip() for label, names, note in rows]
        return "\n".join([*lines, *([advice] if (advice := self._advice()) else [])])


def inits_of(model: nn.Module, places: Iterable[str]) -> list[str]:
    """How the ACONs at these places start, and where they are."""
    acons, by_start = acons_of(model), {}
    for place in places:
        start = f"{type(acons[place]).__name__}, init={acons[place].init!r}"
        by_start.setdefault(start, []).append(place)
    return [f"{start}: {summary(found)}" for start, found in by_start.items()]


def summary(names: Iterable[str], most: int = 6) -> str:
    """Names with their numbers left out, so that a hundred become a few: ``layer*.*.act1``."""
    patterns = list(dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.|$)|(?<=layer)\d+", "*", name) for name in names))
    return ", ".join([*patterns[:most], *([f"{len(patterns) - most} more"] if len(patterns) > most else [])])
