"""How far a comparison is: a bar, a line for each run that ends, and the time that is left."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tqdm import tqdm
from typing_extensions import Self

from .results import metrics_of

if TYPE_CHECKING:
    from .execute import Run

#: the part of a run that must be seen before it tells how long the rest takes
_ENOUGH = 0.02


class Progress:
    """A bar over the runs. The rest takes as long, in proportion, as what was done since the start."""

    def __init__(self, runs: Sequence[Run]):
        self.runs = runs
        self.said: set[str] = set()

    def __enter__(self) -> Self:
        self.began, self.first = time.monotonic(), self._done()
        self.bar = tqdm(
            total=len(self.runs),
            initial=sum(run.done is not None for run in self.runs),
            bar_format="{n_fmt} of {total_fmt} runs |{bar}| {elapsed} so far, {desc}",
            disable=None,  # where the output is no terminal, only the lines are written
        )
        self.show()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def say_once(self, text: str) -> None:
        if text not in self.said:
            self.said.add(text)
            self.bar.write(text)

    def finished(self, run: Run) -> None:
        """A line for a run that has ended."""
        ended = sum(each.done is not None or each.failure is not None for each in self.runs)
        where = f"[{ended} of {len(self.runs)} runs; {self.left()}]"
        if run.done is None:
            self.bar.write(f"{where} {run.name}: FAILED, {run.failure} (log: {run.directory / 'log.txt'})")
        else:
            name, value = next(iter(metrics_of(run).items()))
            seconds = run.done["seconds"]
            took = "was resumed" if seconds is None else f"took {duration(seconds)}"
            self.bar.write(f"{where} {run.name}: {name} {value:.4g}, {took}")
        self.bar.update()

    def show(self) -> None:
        if not self.bar.disable:
            self.bar.set_description_str(self.left())

    def left(self) -> str:
        done = self._done()
        if done - self.first < _ENOUGH:
            return "time left: not known yet"
        seconds = (time.monotonic() - self.began) / (done - self.first) * (len(self.runs) - done)
        return f"about {duration(seconds)} left"

    def _done(self) -> float:
        """How many runs have ended, with the parts of the others that are done."""
        return sum(1.0 if run.done or run.failure else run.fraction() for run in self.runs)


def duration(seconds: float) -> str:
    """Seconds in words: ``'2 h 05 min'``."""
    minutes, seconds = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
