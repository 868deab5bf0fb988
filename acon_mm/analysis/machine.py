"""This machine, in words."""

import platform
from pathlib import Path


def processor() -> str:
    """The model of the processor, where the system tells it, or its architecture."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
