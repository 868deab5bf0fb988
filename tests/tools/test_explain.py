"""`tools/analysis_tools/explain.py`: what it prints and writes."""

import json

import pytest

from helpers.pages import ROOT
from helpers.tiny_runs import error_of, load_tool

tool = load_tool("analysis_tools/explain")
DETECTOR = str(ROOT / "configs/detection/retinanet_r18-metaaconc_fpn_6e_digits.py")
SEGMENTOR = str(ROOT / "configs/segmentation/pspnet_r18-d16_1xb8-300_digits-160x160.py")
AUXILIARY = ("--cfg-options", "model.auxiliary_head.act_cfg.type=AconC")


def cells(text: str, start: str) -> list[str]:
    """The cells of the one row of a table that starts with ``start``."""
    (row,) = [line for line in text.splitlines() if line.startswith(f"| {start} ")]
    return [cell.strip() for cell in row.strip("|").split(" | ")]


@pytest.mark.slow
def test_a_detector(tmp_path, capsys):
    out = tmp_path / "new" / "detector.md"
    tool.main([DETECTOR, "--out", str(out), "--cfg-options", "model.bbox_head.act_cfg.type=MetaAconC"])
    text = out.read_text()
    assert capsys.readouterr().out == text + "\n"
    assert text.startswith(f"# RetinaNet of {DETECTOR}\n\nSwapped in: 20 of 21 activations that act_cfg could replace")
    assert "one picture of 160 x 160 (height x width)" in text
    row = cells(text, "bbox_head.cls_convs.0.activate")
    assert row[:7] == ["bbox_head.cls_convs.0.activate", "MetaAconC", "128", "1", "4,784", "0.038%", "3"]
    assert row[7] == "3.2 k to 51.2 k" and row[-1] == ""
    assert cells(text, "backbone.stem") == ["backbone.stem", "1", "ReLU", "not among the default act_sites of backbone"]


@pytest.mark.slow
def test_a_segmentor_as_json(tmp_path, capsys):
    out = tmp_path / "segmentor.json"
    tool.main([SEGMENTOR, "--shape", "64", "96", "--out", str(out), *AUXILIARY])
    written = json.loads(out.read_text())
    assert (written["config"], written["model"], written["shape"]) == (SEGMENTOR, "EncoderDecoder", [64, 96])
    (activation,) = written["activations"]
    assert (activation["runs"], activation["shapes"]) == ("training only", [[2, 64, 4, 6]])
    assert written["added_parameters"] == activation["parameters"] == 3 * 64
    text = capsys.readouterr().out
    assert cells(text, "auxiliary_head.convs.0.activate")[-1] == "training only (2 pictures)"
    assert cells(text, "backbone.layer2.*.act1") == ["backbone.layer2.*.act1", "2", "ReLU", "no act_cfg for backbone"]


@pytest.mark.slow
def test_a_config_without_act_cfg(capsys):
    tool.main([SEGMENTOR, "--shape", "64", "64"])
    text = capsys.readouterr().out
    assert "Not swapped in: none of the " in text and "FLOPs" not in text


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (["--out", "table.csv"], "--out must end in .json or .md, got table.csv"),
        (["--shape", "32", "32", "--out", "/proc/x.md"], "cannot write /proc/x.md: No such file or directory"),
        (["--shape", "0", "64"], "argument --shape: must be 1 or more, got 0"),
    ],
)
def test_errors(args, error, capsys):
    assert error_of(capsys, tool.main, [DETECTOR, *args]) == error
