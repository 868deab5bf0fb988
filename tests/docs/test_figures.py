"""`docs/make_figures.py` draws the figures that the pages embed."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def figures():
    spec = importlib.util.spec_from_file_location("make_figures", DOCS / "make_figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_curves_are_those_of_the_labels(figures):
    left, right = figures.acon_curves().axes
    curves = {line.get_label().partition(": ")[2]: line.get_xydata().T for line in left.lines}
    for label, function in (("linear", lambda x: x / 2), ("SiLU", F.silu), ("as ReLU", F.relu)):
        x, y = (torch.tensor(each) for each in curves[label])
        torch.testing.assert_close(y, function(x), atol=1e-2, rtol=0)
    slopes = {line.get_label(): line.get_xydata() for line in right.lines}
    for label, (p1, p2, _) in figures.SLOPES.items():
        start, end = slopes[label][[0, -1], 1]
        assert (start / -4, end / 4) == pytest.approx((p2, p1), abs=0.01)


def test_the_script_writes_the_committed_figure(figures, tmp_path):
    figures.main(tmp_path)
    (path,) = tmp_path.iterdir()
    assert "<svg" in path.read_text()
    assert (DOCS / "images" / path.name).exists()
