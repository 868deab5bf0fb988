"""How far a comparison is: a bar, a line for each run that ends, and the time that is left."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tqdm import tqdm
from typing_extensions import Self

from .results import metrics_of

if TYPE_CHECKING:
    from .execute import Run

#: below this, the part of a run that was seen tells nothing about the whole
_ENOUGH = 0.02


class Progress:
    """A bar over the runs.

    The time left is that of the runs that are not done. A run takes as long as those of its variant took, or else as
    those of all variants, or else as the part that was seen of one that runs. Before that, it is not known, and the bar
    says so.
    """

    def __init__(self, runs: Sequence[Run], jobs: int):
        self.runs, self.jobs = runs, jobs
        self.said: set[str] = set()

    def __enter__(self) -> Self:
        done = sum(run.done is not None for run in self.runs)
        self.bar = tqdm(
            total=len(self.runs),
            initial=done,
            bar_format="{n_fmt} of {total_fmt} runs |{bar}| {elapsed} so far, {desc}",
            disable=None,  # where the output is no terminal, only the lines are written
        )
        self.show({})
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
        where = f"[{ended} of {len(self.runs)} runs; {self._left(self.active)}]"
        if run.done is None:
            self.bar.write(f"{where} {run.name}: FAILED, {run.failure} (log: {run.directory / 'log.txt'})")
        else:
            name, value = next(iter(metrics_of(run).items()))
            seconds = run.done["seconds"]
            took = "was resumed" if seconds is None else f"took {duration(seconds)}"
            self.bar.write(f"{where} {run.name}: {name} {value:.4g}, {took}")
        self.bar.update()

    def show(self, active: Mapping[str, tuple[float, float, float]]) -> None:
        """Show the bar. ``active``: for each run with a process, its start, and how much was done then and now."""
        self.active = active
        if not self.bar.disable:
            self.bar.set_description_str(self._left(active))

    def _left(self, active: Mapping[str, tuple[float, float, float]]) -> str:
        left = self._seconds_left(active)
        return "time left: not known yet" if left is None else f"about {duration(left)} left"

    def _seconds_left(self, active: Mapping[str, tuple[float, float, float]]) -> float | None:
        seen: dict[str, list[float]] = {}
        for run in self.runs:
            if run.done is not None and run.done["seconds"] is not None:
                seen.setdefault(run.variant.label, []).append(run.done["seconds"])
        for run in self.runs:
            if run.name in active and run.variant.label not in seen:
                began, first, now = active[run.name]
                if now - first > _ENOUGH:
                    seen[run.variant.label] = [(time.monotonic() - began) / (now - first)]
        every = [each for times in seen.values() for each in times]
        if not every:
            return None
        left = []
        for run in self.runs:
            if run.done is None and run.failure is None:
                whole = seen.get(run.variant.label, every)
                left.append(sum(whole) / len(whole) * (1 - active.get(run.name, (0, 0, 0))[2]))
        return max(sum(left) / self.jobs, max(left, default=0.0))


def duration(seconds: float) -> str:
    """Seconds in words: ``'2 h 05 min'``."""
    minutes, seconds = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
