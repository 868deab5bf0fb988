"""Mean, spread, and the paired difference of two sets of runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

#: of the intervals
CONFIDENCE = 0.95
BETTER, WORSE, NO_DIFFERENCE, UNKNOWN = "better", "worse", "no difference seen", "too few runs to tell"


@dataclass(frozen=True)
class Difference:
    """The mean of the differences by seed, and its confidence interval by Student's t.

    Attributes:
        mean: None without a seed that both have.
        low, high: None with fewer than two such seeds.
        seeds: those that both have.
        verdict: whether the interval leaves out zero, and on which side it is.
    """

    mean: float | None
    low: float | None
    high: float | None
    seeds: tuple[int, ...]
    verdict: str


def spread(values: list[float]) -> tuple[float | None, float | None]:
    """Mean and standard deviation (with n - 1); None where there are too few values."""
    mean = float(np.mean(values)) if values else None
    return mean, float(np.std(values, ddof=1)) if len(values) > 1 else None


def difference(values: Mapping[int, float], base: Mapping[int, float], less_is_better: bool = False) -> Difference:
    """How much ``values`` differ from ``base``, each by seed."""
    seeds = tuple(sorted(values.keys() & base.keys()))
    gaps = np.array([values[seed] - base[seed] for seed in seeds])
    if len(seeds) < 2:
        return Difference(float(gaps[0]) if len(seeds) else None, None, None, seeds, UNKNOWN)
    mean = float(gaps.mean())
    error = float(gaps.std(ddof=1)) / len(gaps) ** 0.5
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(gaps) - 1)) * error
    low, high = mean - half, mean + half
    verdict = NO_DIFFERENCE
    if low > 0 or high < 0:
        verdict = BETTER if (low > 0) != less_is_better else WORSE
    return Difference(mean, low, high, seeds, verdict)
