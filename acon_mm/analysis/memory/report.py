"""The memory of a training step as text, and as JSON: tables in Markdown that are aligned for a terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ..explanation.report import table
from .layers import KINDS
from .measure import RELU, Memory

MIB, GIB = 2**20, 2**30


def as_json(found: Mapping[str, Memory], conditions: Mapping[str, Any], limit_gib: float) -> str:
    """All that was measured, in bytes."""
    models = {
        label: asdict(memory)
        | {
            "by_kind": memory.by_kind,
            "per_picture": memory.per_picture,
            "pictures": memory.pictures(limit_gib * GIB),
        }
        for label, memory in found.items()
    }
    return json.dumps({**conditions, "memory_gib": limit_gib, "models": models}, indent=1) + "\n"


def markdown(found: Mapping[str, Memory], conditions: Mapping[str, Any], limit_gib: float, top: int) -> str:
    """The whole text.

    Args:
        found: of :func:`~acon_mm.analysis.memory.measure.measure`.
        conditions: ``config``, ``shape``, ``device``.
        limit_gib: into how much memory pictures should fit.
        top: how many layers are listed.
    """
    relu = found[RELU]
    height, width = conditions["shape"]
    parts = [
        f"# Memory of a training step: {relu.model} of {conditions['config']}",
        f"{relu.batch} pictures of {height} x {width} (height x width), {conditions['device']}. MiB.",
    ]
    if relu.had_sync_bn:
        parts.append("SyncBN was measured as BN, as in a run of one process.")
    parts += [_summary(found, limit_gib), f"## The {top} layers that keep most", _layers(found, top)]
    return "\n\n".join([*parts, sentence(found, limit_gib)]) + "\n"


def sentence(found: Mapping[str, Memory], limit_gib: float) -> str:
    """How many pictures fit."""
    label = next(each for each in found if each != RELU)
    counts = {each: memory.pictures(limit_gib * GIB) for each, memory in found.items()}
    if not any(counts.values()):
        return f"With {limit_gib:g} GiB, not one picture fits, neither with {label} nor with ReLU."
    return f"With {limit_gib:g} GiB, {_pictures(counts[label])} with {label}, and {counts[RELU] or 'none'} with ReLU."


def _pictures(count: int) -> str:
    return f"{count or 'no'} picture{'' if count == 1 else 's'} fit{'s' if count == 1 else ''}"


def _summary(found: Mapping[str, Memory], limit_gib: float) -> str:
    rows = [_row(f"kept for backward: {kind}", {k: m.by_kind[kind] for k, m in found.items()}) for kind in KINDS]
    rows.append(_row("**kept for backward**", {label: memory.kept[0] for label, memory in found.items()}))
    rows.append(_row("weights, buffers, optimizer", {label: memory.standing for label, memory in found.items()}))
    rows.append(_row("**peak of a step, with these**", {label: memory.peaks[0] for label, memory in found.items()}))
    rows.append(_row("one picture more", {label: memory.per_picture for label, memory in found.items()}))
    counts = [str(memory.pictures(limit_gib * GIB)) for memory in found.values()]
    rows.append([f"**pictures in {limit_gib:g} GiB**", *counts, ""])
    return table(["", *found, "ratio"], rows, right=range(1, 4))


def _row(name: str, sizes: Mapping[str, float]) -> list[str]:
    relu, acon = sizes.values()
    return [name, *(f"{size / MIB:,.1f}" for size in sizes.values()), f"{acon / relu:.2f}" if relu >= 0.1 * MIB else ""]


def _layers(found: Mapping[str, Memory], top: int) -> str:
    sizes: dict[tuple[str, str], dict[str, int]] = {}
    for label, memory in found.items():
        for each in memory.layers:
            sizes.setdefault((each.module, each.kind), dict.fromkeys(found, 0))[label] += each.bytes
    rows = sorted(sizes.items(), key=lambda row: -max(row[1].values()))
    lines = [[module, kind.removesuffix("s"), *_row("", of_layer)[1:]] for (module, kind), of_layer in rows[:top]]
    if rest := rows[top:]:
        lines.append([f"{len(rest)} more", "", *_row("", {k: sum(size[k] for _, size in rest) for k in found})[1:]])
    return table(["layer", "kind", *found, "ratio"], lines, right=range(2, 5))
