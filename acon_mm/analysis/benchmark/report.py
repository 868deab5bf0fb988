"""Tables of measurements in Markdown."""

from collections.abc import Sequence

import torch

from ... import compat
from ...ops import cpu
from ..explanation.report import table
from ..machine import processor
from .models import ModelCase
from .operators import REFERENCE, Case


def machine(device: torch.device) -> str:
    """Processor or GPU, version of PyTorch and kernels."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    kernels = cpu.problem() or f"kernels: {cpu.instruction_set()}"
    return f"{processor()}, torch {torch.__version__} ({compat.cpu_capability()}), {kernels}"


def operators_table(cases: Sequence[Case]) -> str:
    """Time over ``nn.SiLU``'s; a row for each case."""
    names = list(dict.fromkeys(name for case in cases for name in case.ratio if name != REFERENCE))
    head = ["activation", "x", "dtype, layout", "threads", "passes", *names, "kept by ours", "ours GB/s", "copy GB/s"]
    rows = []
    for case in cases:
        kept = case.kept["ours"]
        rows.append(
            [
                case.act,
                "x".join(map(str, case.shape)),
                f"{case.dtype}, {case.layout}",
                str(case.threads),
                case.passes,
                *(_ratio(case, name) for name in names),
                f"{kept:.2f} x",
                f"{case.gigabytes:.1f}",
                f"{case.copy_gigabytes:.1f}",
            ]
        )
    return table(head, rows)


def _ratio(case: Case, name: str) -> str:
    if name not in case.ratio:
        return ""
    return f"**{case.ratio[name]:.2f}**" if name == "ours" else f"{case.ratio[name]:.2f}"


def models_table(cases: Sequence[ModelCase]) -> str:
    """Time over ReLU's; a column for each case."""
    head = ["activation", *(f"{c.model}, batch {c.batch}, {c.passes}, {c.threads} thr." for c in cases)]
    rows = [[variant, *(f"{c.ratio[variant]:.2f}" for c in cases)] for variant in cases[0].ratio]
    rows.append(["seconds with ReLU", *(f"{c.seconds:.2f}" for c in cases)])
    return table(head, rows)
