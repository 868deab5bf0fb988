"""Processes to kill, and tools whose end is judged."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from acon_mm.checkpoints import CheckpointError, load_checkpoint
from acon_mm.engine import command_line

NO_VAL = ("val_cfg=None", "val_dataloader=None", "val_evaluator=None")


def newest(work_dir: Path) -> int:
    """The iteration of the newest checkpoint that is whole; 0 if there is none."""
    found = [0]
    for path in work_dir.glob("iter_*.pth"):
        try:
            found.append(load_checkpoint(path)["meta"]["iter"])
        except CheckpointError:
            continue
    return max(found)


def arguments(config: Path, work_dir: Path, iterations: int, *more: str) -> list[str]:
    options = (f"train_cfg.max_iters={iterations}", "default_hooks.checkpoint.interval=1", *NO_VAL)
    keep = "default_hooks.checkpoint.max_keep_ckpts=2"
    return [str(config), "--work-dir", str(work_dir), *more, "--cfg-options", *options, keep]


def start(function: Callable[[], object], log: Path) -> int:
    """Run a function in a copy of this process, which writes into a log; the number of the process."""
    process = os.fork()
    if process:
        return process
    os.setpgid(0, 0)
    status = 70
    try:
        sys.stdout = sys.stderr = open(log, "a", buffering=1)  # noqa: SIM115  until the end of the process
        os.dup2(sys.stdout.fileno(), 1)
        os.dup2(sys.stdout.fileno(), 2)
        function()
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def kill(process: int, after: float) -> int | None:
    """Kill a process after some seconds; its status if it has ended before."""
    end = time.monotonic() + after
    while time.monotonic() < end:
        if os.waitpid(process, os.WNOHANG)[0]:
            return 0
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return None


def wait(process: int, seconds: float = 60) -> int:
    """The status of a process. One that hangs is killed and has status -9."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return -9


def ending(function: Callable[[], object], capsys: pytest.CaptureFixture) -> tuple[str, str]:
    """How a tool ends in this process: ``survived``, ``clear`` or ``unclear``; and its message."""
    capsys.readouterr()
    try:
        function()
    except SystemExit as end:
        lines = [line for line in capsys.readouterr().err.splitlines() if re.match(r"(\S+: )?error: ", line)]
        return ("clear" if end.code in (1, 2) and len(lines) == 1 else "unclear"), "\n".join(lines)
    except Exception as error:
        return "unclear", f"{type(error).__name__}: {error}"
    return "survived", capsys.readouterr().err


def in_session(function: Callable[[], object]) -> Callable[[], None]:
    """The function in the context of a tool."""

    def run() -> None:
        with command_line.session("none"):
            function()

    return run
