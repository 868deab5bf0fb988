"""This machine, in words."""

import platform
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
