"""The text of an explanation."""

import json
from dataclasses import replace

from acon_mm.analysis.explanation import Activation, Explanation, Kept, report

ACON = Activation(
    name="neck.act",
    type="AconC",
    options={"init": "swish"},
    channels=8,
    channel_dim=1,
    parameters=24,
    frozen=False,
    runs="always",
    shapes=[(1, 8, 10, 10), (1, 8, 5, 5)],
    flops=9016,
)
EXPLANATION = Explanation(
    model="RetinaNet",
    shape=(64, 96),
    parameters=1200,
    flops=90_160,
    activations=[
        ACON,
        replace(ACON, name="head.act1, head.act2", options={"init": "relu"}, runs="never", shapes=[], flops=0),
        replace(ACON, name="aux.act", runs="training only", frozen=True, shapes=[(2, 8, 10, 10)], flops=14_424),
    ],
    kept=[
        Kept("backbone.layer1.0.act1", "ReLU", "why", is_site=True),
        Kept("backbone.layer1.1.act1", "ReLU", "why", is_site=True),
        Kept("backbone.layer1.1.act1", "ReLU", "another reason", is_site=False),
        Kept("f(a|b)", "function", "why", is_site=False),
    ],
    not_run={},
)


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line[1:-1].split(" | ")] for line in text.splitlines() if line.startswith("|")]


def test_markdown():
    text = report.markdown(EXPLANATION, "a.py")
    assert (
        "Swapped in: 4 of 6 activations that act_cfg could replace are ACONs. They have 72 of the model's 1.2 k "
        "parameters (6.00%), and 9.02 k operations on top of the 90.2 k multiply-adds of the convolutions and matrix "
        "products (+10.00%). Never run: head.act1, head.act2.\n"
    ) in text
    assert "- AconC 1: init='swish'\n- AconC 2: init='relu'\n" in text
    assert rows(text)[2:6] == [
        ["neck.act", "AconC 1", "8", "1", "24", "2.000%", "2", "200 to 800", "9.02 k", ""],
        ["head.act1, head.act2", "AconC 2", "8", "1", "24", "2.000%", "0", "", "0", "**never runs**"],
        ["aux.act", "AconC 1", "8", "1", "24", "2.000%", "1", "1.6 k", "14.4 k", "training only (2 pictures), frozen"],
        ["**total**", "", "", "", "72", "6.000%", "2", "", "9.02 k", "calls and FLOPs: inference only"],
    ]
    assert rows(text)[8:] == [
        ["backbone.layer1.*.act1", "2", "ReLU", "why"],
        ["backbone.layer1.*.act1", "1", "ReLU", "another reason"],
        [r"f(a\|b)", "1", "function", "why"],
    ]


def test_tables_are_aligned():
    text = report.markdown(EXPLANATION, "a.py")
    tables = [part.splitlines() for part in text.split("\n\n") if part.startswith("|")]
    assert len(tables) == 2
    for lines in tables:
        bars = [[i for i, character in enumerate(line.replace(r"\|", "--")) if character == "|"] for line in lines]
        assert all(each == bars[0] for each in bars)


def test_what_did_not_run_is_said():
    unknown = [replace(each, runs="unknown", shapes=[], flops=0) for each in EXPLANATION.activations]
    failed = replace(EXPLANATION, activations=unknown, flops=0, not_run={"predict": "ValueError: no (a.py:1)"})
    text = report.markdown(failed, "a.py")
    assert "The pass 'predict' does not run: ValueError: no (a.py:1)\n" in text
    assert "floating-point operations" not in text and "Never run" not in text
    assert [row[-1] for row in rows(text)[2:5]] == ["not run", "not run", "not run, frozen"]


def test_json():
    written = json.loads(report.as_json(EXPLANATION, "a.py"))
    assert (written["config"], written["added_parameters"], written["added_flops"]) == ("a.py", 72, 9016)
    assert written["activations"][0]["shapes"] == [[1, 8, 10, 10], [1, 8, 5, 5]]
    assert written["kept"][0] == {"name": "backbone.layer1.0.act1", "type": "ReLU", "reason": "why", "is_site": True}
