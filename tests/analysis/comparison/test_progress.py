"""The time that is left, and what is said of runs."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from acon_mm.analysis.comparison.progress import Progress, duration


def run(label, fraction=0.0, done=None, failure=None):
    return SimpleNamespace(
        name=f"{label}, seed 0", done=done, failure=failure, directory=Path(), fraction=lambda: fraction
    )


def test_the_rest_takes_as_long_as_what_was_done(monkeypatch):
    """A half and three quarters of a run took 50 s, and two runs and a quarter are left."""
    now = iter((100.0, 150.0))
    monkeypatch.setattr("acon_mm.analysis.comparison.progress.time.monotonic", lambda: next(now))
    runs = [run("a", done={"seconds": 9}), run("b", 0.5), run("c"), run("d"), run("e"), run("f", failure="x")]
    with Progress(runs) as progress:
        assert progress.left() == "time left: not known yet"
        runs[1].failure, runs[2].fraction = "y", lambda: 0.75
        assert progress.left() == "about 1 min 30 s left"


def test_a_failed_run_is_a_line(capsys):
    with Progress([run("ReLU", failure="exit code 1: it broke")]) as progress:
        progress.finished(progress.runs[0])
    line = capsys.readouterr().out
    assert line.startswith("[1 of 1 runs; time left: not known yet] ReLU, seed 0: FAILED, exit code 1: it broke (log: ")


@pytest.mark.parametrize(("seconds", "text"), [(4.4, "4 s"), (65, "1 min 05 s"), (3600 * 2 + 299.7, "2 h 05 min")])
def test_duration(seconds, text):
    assert duration(seconds) == text
