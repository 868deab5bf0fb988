"""The table that a load writes into the log."""

import logging

import pytest

from acon_mm.checkpoints import load_state_dict
from acon_mm.checkpoints.report import LoadReport, summary
from helpers.loading import backbone


def test_the_table():
    report = LoadReport("RetinaNet", ["a"] * 154, ["b"] * 48, ["AconC, init='relu': act1"], dropped=["fc.weight"])
    assert str(report).splitlines() == [
        "Weights of RetinaNet         tensors",
        "from the checkpoint              154",
        "ACON's own, keep their init       48  AconC, init='relu': act1",
        "others that keep their init        0",
        "dropped, not in the model          1  fc.weight",
        "dropped, of the wrong shape        0",
    ]
    report.folded = ["conv1.bias"]
    assert str(report).splitlines()[-1] == "folded into the next norm          1  conv1.bias"


@pytest.mark.parametrize(("init", "advice"), [("relu", None), ("swish", "start as SiLU"), ("paper", "start as random")])
def test_an_init_that_ruins_relu_weights_is_told(init, advice):
    report = load_state_dict(backbone(dict(type="AconC", init=init)), backbone().state_dict())
    last = str(report).splitlines()[-1]
    if advice:
        assert advice in last and "init='relu' in act_cfg" in last and report.level == logging.WARNING
    else:
        assert last.startswith("dropped, ") and report.level == logging.INFO


@pytest.mark.parametrize("rows", [dict(missing=["a"]), dict(wrong_shape=["a"])])
def test_what_is_missing_or_of_another_size_is_a_warning(rows):
    assert LoadReport("ResNet", ["b"]).level == logging.INFO
    assert LoadReport("ResNet", ["b"], **rows).level == logging.WARNING


def test_summary():
    assert summary(["layer1.0.act1", "layer2.11.act1", "fc"]) == "layer*.*.act1, fc"
    assert summary([f"name{letter}" for letter in "abcdefgh"]).endswith("namef, 2 more")
