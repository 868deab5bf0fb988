"""Every tool ends an error in one line, or with ``--debug`` in its traceback."""

import pytest

from acon_mm.errors import UserError
from helpers.tiny_runs import TOOLS, error_of, load_tool

WRONG = {
    "train": ["no.py"],
    "test": ["no.py", "no.pth"],
    "analysis_tools/benchmark": ["operators", "--device", "no", "--keep-allocator"],
    "analysis_tools/compare": ["no.py"],
    "analysis_tools/config_coverage": ["--only", "NONE"],
    "analysis_tools/draw_predictions": ["no.py", "no.pth", "--out", "x.png"],
    "analysis_tools/explain": ["no.py"],
    "analysis_tools/memory": ["no.py"],
    "analysis_tools/show_activations": ["no.py", "no.pth"],
    "deployment/export_onnx": ["no.py", "no.pth", "--out", "x.onnx"],
    "model_converters/convert_checkpoint": ["show", "no.pth"],
}
ERRORS = {
    "analysis_tools/benchmark": "--device no cannot be used: ",
    "analysis_tools/config_coverage": "no shipped config starts with NONE, or the sample is empty",
    "model_converters/convert_checkpoint": "there is no checkpoint no.pth",
}


def test_all_tools_are_here():
    found = {path.relative_to(TOOLS).with_suffix("").as_posix() for path in TOOLS.rglob("*.py")}
    assert found == {*WRONG, "analysis_tools/check_device"}  # which runs without OpenMMLab's packages


@pytest.mark.parametrize("name", WRONG)
def test_an_error_and_its_traceback(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tool = load_tool(name)
    error = ERRORS.get(name, "cannot read config no.py: no such file")
    assert error_of(capsys, tool.main, WRONG[name]).startswith(error)
    with pytest.raises(UserError, match=f"^{error}"):
        tool.main(["--debug", *WRONG[name]])
