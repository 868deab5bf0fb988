"""This machine, in words."""

import platform
import sys
from pathlib import Path

import torch

from ..errors import UserError


def processor() -> str:
    """The model of the processor, where the system tells it, or its architecture."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def refuse_windows(tool: str) -> None:
    """Raise a UserError on Windows, for a tool whose processes share file locks, or stop each other by signals."""
    if sys.platform == "win32":
        raise UserError(f"{tool} does not run on Windows, which has other file locks and signals: use WSL, or Linux")


def usable_device(name: str) -> torch.device:
    """The device of this name.

    Raises:
        UserError: there is no such device, or it cannot be used.
    """
    try:
        return torch.empty(1, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0] or "there is no such device"
        raise UserError(f"--device {name} cannot be used: {reason}") from error
