"""The runs of a comparison: each is the ordinary training and test, in processes of its own.

A run is done when its ``done.json`` is there. Each file is written whole or not at all, and a run that was killed goes
on from its last checkpoint. The processes of a run hold a lock on its directory, also after the comparison itself was
killed, so nobody starts a run twice.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from ...compat import strict_zip
from ...errors import UserError
from ...files import read_json, write_file, write_json
from .hook import read_lines
from .progress import Progress
from .results import metrics_of
from .variants import Variant, run_config

#: seconds between two looks at the processes
_PAUSE = 0.5
#: the share of the training in a run; the rest is its test
_TRAINING = 0.95


@dataclass
class Run:
    """A variant with a seed.

    Attributes:
        directory: where all of its files are.
        tools: the directory with ``train.py`` and ``test.py``.
    """

    variant: Variant
    seed: int
    directory: Path
    tools: Path

    @property
    def name(self) -> str:
        return f"{self.variant.label}, seed {self.seed}"

    @property
    def config(self) -> Path:
        # Not in the directory of the run, where mmengine writes a copy of the same name with other settings.
        return self.directory.parents[1] / "configs" / f"{self.variant.directory}_seed_{self.seed}.py"

    @property
    def done(self) -> dict[str, Any] | None:
        """What the run took, or None if it is not done."""
        return read_json(self.directory / "done.json", "seconds") if metrics_of(self) else None

    @property
    def failure(self) -> str | None:
        """Why the run failed; None if it did not."""
        failed = read_json(self.directory / "failed.json", "reason")
        return failed and failed["reason"]

    def fraction(self) -> float:
        """How much of the run is done, from 0 to less than 1, as long as its test has not ended."""
        lines = read_lines(self.directory / "steps.jsonl")
        return _TRAINING * lines[-1]["iter"] / lines[-1]["of"] if lines else 0.0

    def commands(self) -> list[list[str]]:
        """Those of the training and, when it is known which checkpoint, of the test."""
        python = [sys.executable, str(self.tools / "train.py"), str(self.config), "--work-dir", str(self.directory)]
        last = self.directory / "last_checkpoint"
        if not last.exists():
            return [[*python, "--resume"]]
        test = [sys.executable, str(self.tools / "test.py"), str(self.config), last.read_text()]
        return [[*python, "--resume"], [*test, "--work-dir", str(self.directory / "test")]]


@dataclass
class _Active:
    """A run with a process."""

    run: Run
    process: subprocess.Popen
    lock: int
    slot: int
    began: float = field(default_factory=time.monotonic)
    from_fraction: float = 0.0


def prepare(cfg: Config, variants: Sequence[Variant], seeds: Sequence[int], work_dir: Path, tools: Path) -> list[Run]:
    """The runs, seed by seed, so that pairs are complete early. Their configs are written.

    Raises:
        UserError: a directory has a run with another config.
    """
    runs, texts = [], []
    for seed in seeds:
        for variant in variants:
            run = Run(variant, seed, work_dir / variant.directory / f"seed_{seed}", tools)
            text = run_config(cfg, variant, seed, run.directory, work_dir / "starts" / f"seed_{seed}.pth").pretty_text
            if run.config.exists() and run.config.read_text() != text:
                raise UserError(
                    f"{work_dir} has runs with other settings ({run.config}): choose another --work-dir, or remove it"
                )
            runs.append(run)
            texts.append(text)
    for run, text in strict_zip(runs, texts):
        run.directory.mkdir(parents=True, exist_ok=True)
        if not run.config.exists():
            write_file(run.config, text)
    return runs


def execute(runs: Sequence[Run], jobs: int, keep_checkpoints: bool = True) -> None:
    """Do the runs that are not done. One that fails is noted, and the rest goes on.

    Args:
        runs: in their order.
        jobs: how many at a time; with GPUs, run ``i`` of these gets GPU ``i``, in turn.
        keep_checkpoints: whether the checkpoints of a run stay after its test.
    """
    waiting = [run for run in runs if run.done is None]
    for run in waiting:  # those that failed are tried again
        for name in ("failed.json", "test.json"):
            (run.directory / name).unlink(missing_ok=True)
    active: list[_Active] = []
    with Progress(runs) as progress, _stopped(active):
        while waiting or active:
            for run in list(waiting):
                if len(active) == jobs:
                    break
                if (lock := _lock(run)) is None:
                    progress.say_once(f"{run.name} is still running since an earlier start: waiting for it")
                    continue
                waiting.remove(run)
                if run.done is None:
                    slot = min(set(range(jobs)) - {each.slot for each in active})
                    active.append(_Active(run, _start(run, lock, slot), lock, slot, from_fraction=run.fraction()))
                else:
                    os.close(lock)  # another comparison has done it
                    progress.finished(run)
            time.sleep(_PAUSE)
            for each in list(active):
                if each.process.poll() is not None and not _next(each, keep_checkpoints):
                    active.remove(each)
                    os.close(each.lock)
                    progress.finished(each.run)
            progress.show()


def _next(active: _Active, keep_checkpoints: bool) -> bool:
    """After a process has ended: start the next one of the run, or note its end. Whether it goes on."""
    run, code = active.run, active.process.returncode
    if code == 0 and not (run.directory / "test.json").exists() and (run.directory / "trained.json").exists():
        active.process = _start(run, active.lock, active.slot)
        return True
    if code == 0 and metrics_of(run):
        # A resumed run counts as if it had run at once. A small rest of one tells too little.
        rest = 1 - active.from_fraction
        seconds = (time.monotonic() - active.began) / rest if rest > 0.5 else None
        if not keep_checkpoints:
            for file in run.directory.glob("*.pth"):
                file.unlink()
        write_json(run.directory / "done.json", {"seconds": seconds})
    else:
        write_json(run.directory / "failed.json", {"reason": _reason(run, code)})
    return False


def _reason(run: Run, code: int) -> str:
    if code == 0 and (run.directory / "test.json").exists():
        return (
            "the test gave no metric, as of a detector that finds nothing: train longer, or lower "
            "model.test_cfg.score_thr by --cfg-options"
        )
    how = f"killed by signal {-code}" if code < 0 else f"exit code {code}" if code else "no result"
    lines = [line.strip() for line in (run.directory / "log.txt").read_text(errors="replace").splitlines()]
    last = next((line for line in reversed(lines) if line), "no output")
    return f"{how}: {last[:300]}"


def _start(run: Run, lock: int, slot: int) -> subprocess.Popen:
    command = run.commands()[-1 if (run.directory / "trained.json").exists() else 0]
    environment = dict(os.environ)
    if torch.cuda.is_available():
        gpus = environment.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
        environment["CUDA_VISIBLE_DEVICES"] = gpus.split(",")[slot % len(gpus.split(","))]
    with open(run.directory / "log.txt", "ab") as log:
        log.write(f"$ {' '.join(command)}\n".encode())
        log.flush()
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment, pass_fds=[lock]
        )


def _lock(run: Run) -> int | None:
    """A lock on the run's directory, held until this process and those that got it have closed it; None if taken."""
    import fcntl  # Windows has none: tools/analysis_tools/compare.py says so

    lock = os.open(run.directory / ".comparison.lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


@contextmanager
def _stopped(active: list[_Active]) -> Iterator[None]:
    """A context whose end stops the processes that are left, after Ctrl-C for example."""
    try:
        yield
    finally:
        for each in active:
            each.process.terminate()
        for each in active:
            with suppress(subprocess.TimeoutExpired):
                each.process.wait(10)
