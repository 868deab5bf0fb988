"""The benchmark counts and compares as it should. No test depends on how fast anything is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from acon_mm import MetaAconC
from acon_mm.analysis.benchmark import measure, models, operators, report
from acon_mm.analysis.benchmark.peers import FORMS
from acon_mm.compat import register_post_accumulate_grad_hook
from helpers.tiny_runs import error_of, load_tool

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


@pytest.mark.parametrize("acon", FORMS)
def test_all_forms_compute_the_same(acon):
    torch.manual_seed(0)
    forms = {name: form(8, init="paper") for name, form in FORMS[acon].items()}
    x = torch.randn(4, 8, 6, 5)
    for module in forms.values():
        module.load_state_dict(forms["ours"].state_dict())
        torch.testing.assert_close(module(x), forms["ours"](x), rtol=1e-4, atol=1e-5)


def test_interleaved_calls_each_candidate_once_per_round():
    calls = []
    candidates = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = measure.interleaved(candidates, seconds=0, device=CPU, min_rounds=20)
    assert {name: len(taken) for name, taken in times.items()} == {"a": 20, "b": 20, "c": 20}
    rounds = [calls[i : i + 3] for i in range(0, len(calls), 3)]
    assert all(sorted(names) == ["a", "b", "c"] for names in rounds) and len(rounds) == 21  # one to warm up
    after = {pair for names in rounds for pair in zip(names, names[1:])}
    assert len(after) == 6  # each candidate comes after each other one


def test_inputs_are_read_before_each_call():
    class Input:
        def sum(self):
            calls.append("read")

    calls = []
    measure.interleaved({"a": lambda: calls.append("call")}, seconds=0, device=CPU, min_rounds=2, inputs=[Input()])
    assert calls == ["read", "call"] * 3


def test_ratios_are_within_the_round():
    # A slow second round does not matter, because both are slow in it.
    assert measure.ratios({"a": [1.0, 10.0, 1.0], "b": [2.0, 20.0, 2.0]}, "a") == {"a": 1.0, "b": 2.0}


def test_kept_bytes():
    x = torch.randn(2, 8, 16, 16, requires_grad=True)
    size = x.numel() * 4
    ours, authors = FORMS["AconC"]["ours"](8), FORMS["AconC"]["authors"](8)
    assert measure.kept_bytes(nn.SiLU(), x, []) == size
    assert measure.kept_bytes(ours, x, list(ours.parameters())) == size
    assert measure.kept_bytes(authors, x, list(authors.parameters())) >= 4 * size


def test_operator_cases():
    found = operators.measure(
        acts=["MetaAconC"], shapes=[(2, 8, 4, 4)], layouts=["channels_last"], peers=["ReLU"], device=CPU, seconds=0
    )
    cases = list(found)
    assert [case.passes for case in cases] == ["forward", "forward + backward"]
    assert all((case.act, case.shape, case.dtype) == ("MetaAconC", (2, 8, 4, 4), "float32") for case in cases)
    names = {"SiLU", "ours", "ReLU", "copy", "linears"}
    assert all(set(case.ratio) == names and case.ratio["SiLU"] == 1 for case in cases)


def test_shapes_of_heads_and_their_table():
    shapes = [(shape[0], 8, *shape[2:]) for name in ("rois", "linear") for shape in operators.SHAPES[name][:1]]
    cases = list(operators.measure(acts=operators.ACTS[:2], shapes=shapes, peers=[], device=CPU, seconds=0))
    assert [case.shape for case in cases[::4]] == [(100, 8, 7, 7), (256, 8)]
    head, _, *rows = (line.split(" | ") for line in report.operators_table(cases).splitlines())
    assert len(rows) == len(cases) == 8
    column = head.index("linears")
    assert [bool(row[column].strip()) for row in rows] == [False, False, True, True] * 2
    with pytest.raises(ValueError, match=r"channels_last takes shapes \(N, C, H, W\) only"):
        next(operators.measure(shapes=[(4, 8)], layouts=["channels_last"], device=CPU, seconds=0))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["RetinaNet-R18", "PSPNet-R18", "FasterRCNN-R18"])
def test_model_variants_train(name):
    counts = []
    for variant in ("ReLU", "authors' Meta-ACON-C, paper's sites", "Meta-ACON-C everywhere"):
        model = models.build(name, variant, CPU)
        learned, reached = [p for p in model.parameters() if p.requires_grad], []
        handles = [register_post_accumulate_grad_hook(p, reached.append) for p in learned]
        models.training_step(model, 2, 64, CPU)()
        assert len(handles) == len(learned)
        assert {id(p) for p in learned} == {id(p) for p in reached}
        models.inference(model, 1, 64, CPU)()
        counts.append(sum(isinstance(module, MetaAconC) for module in model.modules()))
    assert counts[:2] == [0, 16] and counts[2] > 16


@pytest.mark.slow
def test_a_model_that_cannot_train_on_one_picture_gets_two():
    found = models.measure(
        models=["PSPNet-R18"], variants=["ACON-C everywhere"], batch=1, size=64, device=CPU, seconds=0
    )
    cases = list(found)
    assert [(case.batch, case.passes) for case in cases] == [(2, "training step"), (2, "inference")]
    assert all(list(case.ratio) == ["ReLU", "ACON-C everywhere"] and case.ratio["ReLU"] == 1 for case in cases)


@pytest.mark.slow
def test_tool(tmp_path):
    command = "operators --acts AconC --shapes 1x4x8x8 2x8 --threads 1 --seconds 0 --peers ReLU authors --device cpu"
    done = subprocess.run(
        [sys.executable, "tools/analysis_tools/benchmark.py", *command.split(), "--work-dir", tmp_path / "out"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "out/benchmark.json").read_text())
    assert [case["passes"] for case in written["operators"]] == ["forward", "forward + backward"] * 2
    table = (tmp_path / "out/benchmark.md").read_text()
    assert (
        "| AconC | 1x4x8x8 | float32, contiguous | 1 | forward | " in " ".join(table.split())
        and table in done.stdout + "\n"
    )


def test_the_tool_goes_on_where_it_was_interrupted(tmp_path, capsys, monkeypatch):
    tool = load_tool("analysis_tools/benchmark")
    command = (
        "operators --acts AconC --shapes 2x8 3x8 4x8 --threads 1 --seconds 0 --peers --device cpu --keep-allocator"
    )
    args = [*command.split(), "--work-dir", str(tmp_path)]
    tool.main(args)
    path = tmp_path / "benchmark.json"
    whole = json.loads(path.read_text())
    assert whole["complete"] and len(whole["operators"]) == 6
    path.write_text(json.dumps(whole | {"complete": False, "operators": whole["operators"][:3]}))
    tool.main(args)
    assert "2 cases of operators were measured before the interruption" in capsys.readouterr().err
    found = json.loads(path.read_text())
    assert found["operators"][:2] == whole["operators"][:2] and [c["shape"] for c in found["operators"][2:]] == [
        *[[3, 8]] * 2,
        *[[4, 8]] * 2,
    ]
    path.write_text("{")
    tool.main(args)
    assert f"warning: {path} is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (["--work-dir", "/dev/null"], "cannot write /dev/null/benchmark.json: Not a directory"),
        (["--seconds", "-1"], "argument --seconds: must be 0 or more, got -1"),
        (["--shapes", "2x0"], "argument --shapes: 2x0 is no shape such as 2x64 or 2x64x200x200"),
        (["--shapes", "8"], "argument --shapes: 8 is no shape such as 2x64 or 2x64x200x200"),
    ],
)
def test_errors_come_before_the_first_measurement(args, error, capsys, monkeypatch):
    tool = load_tool("analysis_tools/benchmark")
    monkeypatch.setattr(tool.operators, "measure", None)
    assert error_of(capsys, tool.main, ["operators", "--device", "cpu", "--keep-allocator", *args]) == error
