"""The time that is left, and what is said of runs."""

import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from acon_mm.analysis.comparison.progress import Progress, duration


def run(label, seconds=None, failure=None):
    done = None if seconds is None else {"seconds": seconds}
    return SimpleNamespace(
        name=f"{label}, seed 0", variant=SimpleNamespace(label=label), done=done, failure=failure, directory=Path()
    )


def left(runs, jobs=1, active=None):
    with Progress(runs, jobs) as progress:
        return progress._seconds_left(active or {})


def test_nothing_is_known_at_first():
    assert left([run("ReLU"), run("AconC")]) is None


def test_by_runs_of_the_same_kind():
    """The unknown kind takes the mean of all; a failed run takes nothing more."""
    runs = [run("ReLU", 10), run("ReLU"), run("AconC", 30), run("AconC"), run("SiLU"), run("AconC", failure="x")]
    assert left(runs) == 10 + 30 + 20
    assert left(runs, jobs=2) == 30


def test_a_run_that_goes_on_tells_as_well():
    """A quarter took 5 s, since it was resumed at a half: the last quarter takes as long."""
    runs = [run("ReLU")]
    seen = left(runs, active={"ReLU, seed 0": (time.monotonic() - 5, 0.5, 0.75)})
    assert seen == pytest.approx(5, abs=0.5)
    assert left(runs, active={"ReLU, seed 0": (time.monotonic() - 5, 0.5, 0.5)}) is None


def test_a_failed_run_is_a_line(capsys):
    with Progress([run("ReLU", failure="exit code 1: it broke")], 1) as progress:
        progress.finished(progress.runs[0])
    line = capsys.readouterr().out
    assert line.startswith("[1 of 1 runs; time left: not known yet] ReLU, seed 0: FAILED, exit code 1: it broke (log: ")


@pytest.mark.parametrize(("seconds", "text"), [(4.4, "4 s"), (65, "1 min 05 s"), (3600 * 2 + 299.7, "2 h 05 min")])
def test_duration(seconds, text):
    assert duration(seconds) == text
