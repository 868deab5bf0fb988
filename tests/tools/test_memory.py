"""`tools/analysis_tools/memory.py`: what it prints and writes."""

import json
import subprocess
import sys

import pytest

from helpers.pages import ROOT
from helpers.tiny_runs import TOOLS, configs, error_of, load_tool  # noqa: F401

tool = load_tool("analysis_tools/memory")
DETECTOR = str(ROOT / "configs/detection/retinanet_r18-aconc_fpn_6e_digits.py")
ACON = ("--cfg-options", "model.backbone.act_cfg.type=AconC", "model.backbone.act_sites=all")


def test_a_segmentor(configs, tmp_path, capsys):  # noqa: F811
    options = [*ACON, "model.backbone.act_cfg.memory=least"]
    config = str(configs["segmentation"])
    size = ["--shape", "256", "192", "--batch-size", "8", "--top", "3"]
    tool.main([config, *size, "--memory-gib", "1", "--device", "cpu", "--work-dir", str(tmp_path), *options])
    text = (tmp_path / "memory.md").read_text()
    assert text in capsys.readouterr().out
    assert f"EncoderDecoder of {config}\n\n8 pictures of 256 x 192 (height x width), cpu." in text
    assert "SyncBN was measured as BN" in text

    written = json.loads((tmp_path / "memory.json").read_text())
    relu, least = written["models"].values()
    assert list(written["models"]) == ["ReLU", "AconC, memory='least'"]
    for model in (relu, least):
        assert sum(model["by_kind"].values()) == model["kept"][0] > model["by_kind"]["other"] > 0
        assert model["standing"] + model["kept"][0] < model["peaks"][0] < model["peaks"][1]
    assert relu["by_kind"]["convolution outputs"] == least["by_kind"]["convolution outputs"]
    assert least["kept"][0] < 0.85 * relu["kept"][0] and least["pictures"] > 1.1 * relu["pictures"]
    last = f"With 1 GiB, {least['pictures']} pictures fit with AconC, memory='least', and {relu['pictures']} with ReLU."
    assert last in text
    rows = text.split("## The 3 layers that keep most")[1].split("\n| ")[3:]
    assert rows[0].startswith("backbone.conv1 ") and rows[2].count("decode_head.loss_decode ") and " more" in rows[3]
    assert {path.name for path in tmp_path.iterdir()} == {f"memory.{end}" for end in ("json", "md", "png", "svg")}
    assert last in (tmp_path / "memory.svg").read_text()


@pytest.mark.slow
def test_a_detector_in_a_process(configs, tmp_path):  # noqa: F811
    """Both twins train with the same number of boxes, though their features differ."""
    command = [sys.executable, str(TOOLS / "analysis_tools/memory.py"), str(configs["detection"]), "--device", "cpu"]
    command += ["--shape", "128", "128", "--work-dir", str(tmp_path), "--cfg-options"]
    command += ["model.backbone.act_cfg.type=AconC", "model.roi_head.act_cfg.type=MetaAconC"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "profiler" not in done.stderr and "MaskRCNN" in done.stdout
    relu, acon = json.loads((tmp_path / "memory.json").read_text())["models"].values()
    assert relu["batch"] == acon["batch"] == 2  # as in the config
    convolutions = [
        {each["module"]: each["bytes"] for each in model["layers"] if each["kind"] == "convolution outputs"}
        for model in (relu, acon)
    ]
    assert {name: convolutions[1][name] for name in convolutions[0]} == convolutions[0]
    assert any(name.startswith("roi_head.mask_head") for name in convolutions[0])


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (["--shape", "0", "64"], "argument --shape: must be 1 or more, got 0"),
        (["--batch-size", "0"], "argument --batch-size: must be 1 or more, got 0"),
        (["--memory-gib", "nan"], "argument --memory-gib: must be 0 or more, got nan"),
        (["--device", "meta"], "--device must be cpu or cuda, got meta"),
    ],
)
def test_wrong_flags(args, error, capsys):
    assert error_of(capsys, tool.main, [DETECTOR, *args]) == error


def test_a_model_that_fails(configs, tmp_path, capsys):  # noqa: F811
    args = ["--shape", "1", "1", "--batch-size", "1", "--device", "cpu", "--work-dir", str(tmp_path), *ACON]
    error = error_of(capsys, tool.main, [str(configs["segmentation"]), *args])
    assert error.startswith("a training step of EncoderDecoder with 1 random pictures of 1 x 1 fails: ValueError: ")
    assert error.endswith("Other pictures: --batch-size, --shape") and not list(tmp_path.iterdir())
