"""Mean, spread and paired differences, against values by hand."""

import pytest

from acon_mm.analysis.comparison.statistics import difference, spread

BASE = {0: 10.0, 1: 12.0, 2: 11.0}


def test_spread():
    assert spread([1.0, 2.0, 3.0]) == (2.0, 1.0)
    assert spread([1.0]) == (1.0, None) and spread([]) == (None, None)


def test_interval():
    """Differences 1, 2, 3: mean 2, standard error 1 / sqrt(3), t(0.975, 2) = 4.3027."""
    found = difference({0: 11.0, 1: 14.0, 2: 14.0}, BASE)
    assert found.mean == pytest.approx(2)
    assert found.low == pytest.approx(2 - 4.302653 / 3**0.5) and found.high == pytest.approx(2 + 4.302653 / 3**0.5)
    assert (found.seeds, found.verdict) == ((0, 1, 2), "no difference seen")


@pytest.mark.parametrize(
    ("shift", "less_is_better", "verdict"),
    [(5, False, "better"), (5, True, "worse"), (-5, False, "worse"), (-5, True, "better")],
)
def test_verdicts(shift, less_is_better, verdict):
    values = {seed: value + shift + seed / 10 for seed, value in BASE.items()}
    assert difference(values, BASE, less_is_better).verdict == verdict


def test_only_seeds_that_both_have():
    found = difference({1: 13.0, 2: 12.0, 7: 99.0}, BASE)
    assert (found.mean, found.seeds) == (1.0, (1, 2))


@pytest.mark.parametrize(("values", "mean"), [({}, None), ({1: 13.0}, 1.0)])
def test_too_few(values, mean):
    found = difference(values, BASE)
    assert (found.mean, found.low, found.verdict) == (mean, None, "too few runs to tell")
