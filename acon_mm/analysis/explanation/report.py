"""An explanation as JSON, or as text: a summary, and tables in Markdown that are aligned for a terminal."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from ...compat import strict_zip
from .explain import ALWAYS, TRAINING, UNKNOWN, Activation, Explanation

_NOTES = {TRAINING: "training only (2 pictures)", UNKNOWN: "not run"}


def as_json(explanation: Explanation, config: str) -> str:
    """All attributes, with the totals."""
    totals = {name: getattr(explanation, name) for name in ("added_parameters", "added_flops")}
    return json.dumps({"config": config} | asdict(explanation) | totals, indent=1, default=str) + "\n"


def markdown(explanation: Explanation, config: str) -> str:
    """The whole text."""
    height, width = explanation.shape
    parts = [
        f"# {explanation.model} of {config}",
        _swapped_in(explanation),
        f"Costs are those of inference with one picture of {height} x {width} (height x width).",
        *(f"The pass '{name}' does not run: {error}" for name, error in explanation.not_run.items()),
    ]
    if explanation.activations:
        parts += [_options(explanation), _activations(explanation)]
    if explanation.kept:
        parts += ["## Kept as they are", _kept(explanation)]
    return "\n\n".join(parts) + "\n"


def _swapped_in(explanation: Explanation) -> str:
    activations, others = explanation.activations, sum(each.is_site for each in explanation.kept)
    if not activations:
        return f"Not swapped in: none of the {others} activations that act_cfg could replace is an ACON."
    count = sum(len(each.name.split(", ")) for each in activations)
    unused = [each.name for each in activations if each.runs == "never"]
    parameters = explanation.added_parameters / explanation.parameters
    text = (
        f"Swapped in: {count} of {count + others} activations that act_cfg could replace are ACONs. "
        f"They have {_short(explanation.added_parameters)} of the model's {_short(explanation.parameters)} "
        f"parameters ({parameters:.2%})"
    )
    if explanation.flops:
        flops = explanation.added_flops / explanation.flops
        text += (
            f", and {_short(explanation.added_flops)} operations on top of the "
            f"{_short(explanation.flops)} multiply-adds of the convolutions and matrix products (+{flops:.2%})"
        )
    return text + "." + (f" Never run: {', '.join(unused)}." if unused else "")


def _options(explanation: Explanation) -> str:
    lines = {
        label: ", ".join(f"{name}={value!r}" for name, value in each.options.items())
        for label, each in strict_zip(_labels(explanation), explanation.activations)
    }
    return "\n".join(f"- {label}: {options}" for label, options in lines.items())


def _labels(explanation: Explanation) -> list[str]:
    """The class of each ACON; with a number, if the model has the class with different options."""
    variants: dict[str, list[dict]] = {}
    for each in explanation.activations:
        known = variants.setdefault(each.type, [])
        if each.options not in known:
            known.append(each.options)
    return [
        each.type + (f" {variants[each.type].index(each.options) + 1}" if len(variants[each.type]) > 1 else "")
        for each in explanation.activations
    ]


def _activations(explanation: Explanation) -> str:
    head = ["site", "activation", "channels", "dim", "parameters", "share", "calls", "elements a call", "FLOPs", "note"]
    rows = [
        [
            each.name,
            label,
            str(each.channels),
            str(each.channel_dim),
            f"{each.parameters:,}",
            f"{each.parameters / explanation.parameters:.3%}",
            str(len(each.shapes)),
            _range(each.elements),
            _short(each.flops),
            _note(each),
        ]
        for label, each in strict_zip(_labels(explanation), explanation.activations)
    ]
    always = [each for each in explanation.activations if each.runs == ALWAYS]
    total = [
        "**total**",
        "",
        "",
        "",
        f"{explanation.added_parameters:,}",
        f"{explanation.added_parameters / explanation.parameters:.3%}",
        str(sum(len(each.shapes) for each in always)),
        "",
        _short(explanation.added_flops),
        "" if len(always) == len(rows) else "calls and FLOPs: inference only",
    ]
    return table(head, [*rows, total], right=range(2, 9))


def _note(activation: Activation) -> str:
    notes = [] if activation.runs == ALWAYS else [_NOTES.get(activation.runs, "**never runs**")]
    return ", ".join([*notes, *(["frozen"] if activation.frozen else [])])


def _kept(explanation: Explanation) -> str:
    # Those that differ only in the number of a layer make one row.
    groups = Counter(
        (re.sub(r"(?<=\.)\d+(?=\.|$)", "*", each.name), each.type, each.reason) for each in explanation.kept
    )
    rows = [[name, str(count), type_, reason] for (name, type_, reason), count in groups.items()]
    return table(["activation", "number", "type", "reason"], rows, right=(1,))


def _range(values: Sequence[int]) -> str:
    if not values:
        return ""
    low, high = _short(min(values)), _short(max(values))
    return low if low == high else f"{low} to {high}"


def _short(number: int) -> str:
    """Three digits and a unit."""
    for unit, size in (("T", 10**12), ("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g} {unit}" if number < 999.5 * size else f"{number / size:.0f} {unit}"
    return str(number)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] | range = ()) -> str:
    """A table in Markdown with columns of equal width; those in ``right`` are aligned to the right."""
    cells = [[cell.replace("|", r"\|") for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in strict_zip(*cells)]
    lines = [
        [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(strict_zip(row, widths))
        ]
        for row in cells
    ]
    rule = ["-" * (width - 1) + ":" if i in right else "-" * width for i, width in enumerate(widths)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (lines[0], rule, *lines[1:]))
