"""Measurements as Markdown."""

import platform
from collections.abc import Sequence
from pathlib import Path

import torch

from ...ops import cpu
from .models import ModelCase
from .operators import Case


def machine(device: torch.device) -> str:
    """What was measured on."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    kernels = cpu.problem() or f"kernels: {cpu.instruction_set()}"
    return f"{_processor()}, torch {torch.__version__} ({torch.backends.cpu.get_cpu_capability()}), {kernels}"


def operators_table(cases: Sequence[Case]) -> str:
    """Time over nn.SiLU's, a line a case."""
    names = [name for name in cases[0].ratio if name != "SiLU"]
    head = ["activation", "x", "dtype, layout", "threads", "passes", *names, "kept by ours", "ours GB/s", "copy GB/s"]
    lines = []
    for case in cases:
        kept = case.kept["ours"]
        lines.append(
            [
                case.kind,
                "x".join(map(str, case.shape)),
                f"{case.dtype}, {case.layout}",
                case.threads,
                case.passes,
                *(f"**{case.ratio[n]:.2f}**" if n == "ours" else f"{case.ratio[n]:.2f}" for n in names),
                f"{kept:.2f} x",
                f"{case.gigabytes:.1f}",
                f"{case.copy_gigabytes:.1f}",
            ]
        )
    return _table(head, lines)


def models_table(cases: Sequence[ModelCase]) -> str:
    """Time and memory over those with ReLU, a column a case."""
    head = ["activation", *(f"{c.model}, batch {c.batch}, {c.passes}, {c.threads} thr." for c in cases)]
    lines = [
        [
            variant,
            *(
                f"{c.ratio[variant]:.2f}" + (f" ({c.memory[variant]:.2f})" if variant in c.memory else "")
                for c in cases
            ),
        ]
        for variant in cases[0].ratio
    ]
    lines.append(["seconds with ReLU", *(f"{c.seconds:.2f}" for c in cases)])
    return _table(head, lines)


def _table(head: Sequence[object], lines: Sequence[Sequence[object]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
