"""The machine in words, and tables as text."""

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec

import torch

from ...compat import strict_zip
from ..machine import processor
from .checks import Result


def machine(device: torch.device, stack: str) -> dict[str, str]:
    """What the results depend on, as name and value."""
    triton = "there" if find_spec("triton") else "missing"
    found = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type}, {processor()}",
        "GPUs": str(torch.cuda.device_count()),
        "torch": f"{torch.__version__}, CUDA {torch.version.cuda}, {torch.get_num_threads()} threads",
        "triton": triton,
        "python": sys.version.split()[0],
        "OpenMMLab": stack,
    }
    forced = os.environ.get("ACON_MM_BACKEND")
    return found | ({"ACON_MM_BACKEND": forced} if forced else {})


def summary(results: Sequence[Result]) -> str:
    """How many checks have passed, and the failing ones with their errors."""
    counts = {status: sum(r.status == status for r in results) for status in ("ok", "FAIL", "skipped", "not run")}
    lines = [", ".join(f"{count} {status}" for status, count in counts.items() if count) or "no check was chosen"]
    lines += [f"FAIL {r.name}: {r.detail}" for r in results if r.status == "FAIL"]
    return "\n".join(lines)


def table(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; the first row is its head."""
    lengths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rule = ["-" * length for length in lengths]
    lines = [rows[0], rule, *rows[1:]]
    return "\n".join("| " + " | ".join(c.ljust(n) for c, n in strict_zip(line, lengths)) + " |" for line in lines)
