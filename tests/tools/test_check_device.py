"""The device check finds what is wrong and says so; on this machine it runs without a GPU."""

import json
import os
import runpy
import subprocess
import sys

import pytest
import torch

from acon_mm.analysis.device_check import bandwidth, checks, correctness, kinds
from acon_mm.analysis.device_check.checks import Check, Findings, Setting, Skip
from acon_mm.ops import functional
from helpers.pages import ROOT

CPU = torch.device("cpu")
TOOL = "tools/analysis_tools/check_device.py"


@pytest.fixture
def main(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    return runpy.run_path(str(ROOT / TOOL))["main"]


def test_right_results(main, tmp_path, capsys):
    out = tmp_path / "new/out.json"
    only = ["values[acon_c (N, C), float32]", "infinite", "streams[AconC]"]
    options = ["--quick", "--device", "cpu", "--sections", "correctness", "--out", str(out)]
    assert main([*options, "--only", *only]) == 0
    written = json.loads(out.read_text())
    found = {each["name"]: each["status"] for each in written["correctness"]}
    assert found == {"infinite": "ok", "values[acon_c (N, C), float32]": "ok", "streams[AconC]": "skipped"}
    assert written["machine"]["torch"].startswith(torch.__version__)
    assert "2 ok, 1 skipped" in capsys.readouterr().out


def test_a_place_that_cannot_be_written_is_one_line(main, tmp_path):
    options = ["--quick", "--device", "cpu", "--sections", "correctness", "--only", "infinite", "--out", str(tmp_path)]
    with pytest.raises(SystemExit, match=f"^error: cannot write {tmp_path}: it is not a file$"):
        main(options)


@pytest.mark.parametrize("wrong", ["y", "gradient of x"])
def test_a_wrong_result_is_an_exit_code_and_an_error(wrong, main, tmp_path, capsys, monkeypatch):
    acon_c = functional.acon_c

    def planted(*args):
        y = acon_c(*args)
        # 1 percent too large: the value, or the gradient alone
        return 1.01 * y if wrong == "y" else 1.01 * y - 0.01 * y.detach()

    monkeypatch.setattr(functional, "acon_c", planted)
    options = ["--quick", "--device", "cpu", "--sections", "correctness", "--out", str(tmp_path / "out.json")]
    assert main([*options, "--only", "values[acon_c (N, C), float32]", "infinite"]) == 1
    (result,) = (r for r in json.loads((tmp_path / "out.json").read_text())["correctness"] if "values" in r["name"])
    assert result["status"] == "FAIL" and f"contiguous {wrong}: relative error" in result["detail"]
    assert f"FAIL {result['name']}: {result['detail']}" in capsys.readouterr().out


@pytest.mark.slow
def test_tables(main, tmp_path, capsys):
    out = tmp_path / "out.json"
    options = ["--quick", "--device", "cpu", "--out", str(out)]
    assert main([*options, "--sections", "host", "--only", "no norm"]) == 0
    rows = json.loads(out.read_text())["host"]
    assert {row["name"] for row in rows} == {"ReLU", "SiLU", "BatchNorm2d", "MetaAconC no norm"}
    assert [row["over_silu"] for row in rows if row["name"] == "SiLU"] == [1, 1]
    assert main([*options, "--sections", "bandwidth", "--only", "AconC float32*256x1024"]) == 0
    rows = json.loads(out.read_text())["bandwidth"]
    assert [(row["name"], row["passes"]) for row in rows] == [
        (name, passes) for passes in ("forward", "forward + backward") for name in ("AconC", "MetaAconC")
    ]
    printed = " ".join(capsys.readouterr().out.split())
    assert "| MetaAconC no norm | forward |" in printed
    assert "| MetaAconC | 256x1024 | float32, contiguous |" in printed


def test_an_error_in_a_measurement_is_an_exit_code(main, tmp_path, capsys, monkeypatch):
    def broken(*args):
        raise RuntimeError("no kernel")

    monkeypatch.setattr(bandwidth, "_times", broken)
    options = ["--quick", "--device", "cpu", "--sections", "bandwidth", "correctness"]
    assert main([*options, "--only", "infinite", "AconC float32*256x1024"]) == 1
    printed = capsys.readouterr()
    assert "1 ok" in printed.out and "RuntimeError: no kernel" in printed.err


@pytest.mark.slow
def test_without_openmmlab_the_operators_are_checked():
    code = f"""
import runpy, sys
sys.modules["mmengine"] = None
sys.argv[1:] = ["--quick", "--device", "cpu", "--only", "values", "infinite", "--sections", "correctness", "training"]
try:
    runpy.run_path({TOOL!r}, run_name="__main__")
finally:
    assert "acon_mm.layers" not in sys.modules
"""
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": ""}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "only the operators are checked: acon_mm needs mmengine" in done.stdout
    assert "values[acon_a, float16]" in done.stdout and "AconA" not in done.stdout
    assert "Training steps are not measured, because this needs OpenMMLab" in done.stdout


def test_names_are_unique_and_listed(main, capsys):
    assert main(["--list", "--device", "cpu"]) == 0
    listed = capsys.readouterr().out.split("\n")[:-1]
    assert len(set(listed)) == len(listed) > 100
    assert main(["--list", "--device", "cpu", "--only", "FROZEN[acona]", "empty[*o?norm"]) == 0
    assert capsys.readouterr().out.split("\n")[:-1] == ["frozen[AconA]", "empty[MetaAconC no norm]"]


def test_each_kind_has_its_formula():
    names = {kind.name for kind in kinds.of_this_machine(with_modules=True)}
    assert {"AconA", "AconB", "AconC", "MetaAconC", "AconFReLU", "acon_c (N, 1)"} <= names
    setting = Setting(CPU, quick=True)
    named = " ".join(check.name for check in correctness.all_checks(setting, with_modules=True))
    assert all(f"values[{name}, bfloat16]" in named for name in names)


def test_findings():
    one = torch.ones(3)
    findings = Findings()
    findings.close("near", one * (1 + 1e-6), one, 1e-5)
    findings.close("small beside others", one * 1e-9, torch.zeros(3), 1e-5, scale=1e-2)
    assert findings.wrong == []
    findings.close("far", one * 1.1, one, 1e-5)
    findings.close("nan", one * float("nan"), one, 1e-5)
    findings.close("missing", None, one, 1e-5)
    findings.close("shape", torch.ones(1), one, 1e-5)
    findings.equal("bits", one * (1 + 1e-6), one)
    assert [text.partition(":")[0] for text in findings.wrong] == ["far", "nan", "missing", "shape", "bits"]
    with pytest.raises(AssertionError, match=r"far: relative error 1\.0e-01 \(allowed: 1e-05\).*; and 1 more$"):
        findings.result()


def test_after_a_broken_device_nothing_runs(monkeypatch):
    def wrong():
        raise RuntimeError("an illegal memory access was encountered")

    def skipped():
        raise Skip("reason")

    monkeypatch.setattr(checks, "_usable", lambda device: False)
    names = [("a", lambda: None), ("b", skipped), ("c", wrong), ("d", lambda: None)]
    found = list(checks.run([Check(*each) for each in names], Setting(CPU)))
    assert [(r.name, r.status) for r in found] == [("a", "ok"), ("b", "skipped"), ("c", "FAIL"), ("d", "not run")]
    assert "unusable after c" in found[-1].detail
