"""Runs that differ in their activations start alike and draw alike."""

import json
import random

import numpy as np
import pytest
import torch
from mmcv.cnn import ConvModule
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import nn

from acon_mm.analysis.comparison.hook import outside_of_activations, read_lines, share_start
from acon_mm.compat import strict_zip
from helpers.tiny_runs import run, train


def model(act, seed, channels=8):
    torch.manual_seed(seed)
    act_cfg = dict(type=act, **({"init": "paper"} if act == "MetaAconC" else {}))
    return nn.Sequential(*(ConvModule(3 if i == 0 else channels, channels, 3, act_cfg=act_cfg) for i in range(3)))


def test_models_start_alike(tmp_path):
    first, second = model("ReLU", 0), model("MetaAconC", 0)
    assert not torch.equal(first[1].conv.weight, second[1].conv.weight)  # Meta-ACON has drawn in between
    own = {name: value.clone() for name, value in second[1].activate.state_dict().items() if name != "_extra_state"}
    digests = {share_start(each, tmp_path / "start.pth") for each in (first, second)}
    assert len(digests) == 1
    for before, after in strict_zip(first, second):
        assert torch.equal(before.conv.weight, after.conv.weight)
    assert all(torch.equal(value, second[1].activate.state_dict()[name]) for name, value in own.items())
    assert share_start(model("ReLU", 1), tmp_path / "other.pth") not in digests


def test_activations_with_parameters_keep_theirs():
    assert set(outside_of_activations(model("PReLU", 0))) == set(outside_of_activations(model("AconC", 0)))


def test_other_differences_are_errors(tmp_path):
    share_start(model("ReLU", 0), tmp_path / "start.pth")
    with pytest.raises(
        RuntimeError, match=r"the runs cannot start alike: .* 6 tensors differ .*, such as 0\.conv\.weight"
    ):
        share_start(model("ReLU", 0, channels=16), tmp_path / "start.pth")


def test_a_line_that_was_cut_off(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"iter": 1}\n{"iter": 2}\n{"it')
    assert read_lines(tmp_path / "a.jsonl") == [{"iter": 1}, {"iter": 2}]
    assert read_lines(tmp_path / "none.jsonl") == []


@pytest.fixture
def draws():
    """What all generators give just before each step."""
    found: list[tuple] = []

    @HOOKS.register_module(force=True)
    class Draws(Hook):
        priority = "LOWEST"

        def before_train_iter(self, runner, **kwargs):
            found.append((torch.rand(1).item(), np.random.rand(), random.random()))

    yield found
    del HOOKS.module_dict["Draws"]


@pytest.mark.slow
def test_runs_draw_alike_also_after_a_kill(configs, tmp_path, draws):
    """Mask R-CNN draws proposals, and how many numbers this takes depends on what the network says."""
    import acon_mm.analysis.comparison  # noqa: F401  registers the hook

    def done(act, name, iterations, *args):
        work_dir = tmp_path / name
        options = [
            f"model.backbone.act_cfg.type={act}",
            f"train_cfg.max_iters={iterations}",
            "default_hooks.checkpoint.interval=1",
            "default_hooks.draws.type=Draws",
            "default_hooks.comparison.type=ComparisonHook",
            f"default_hooks.comparison.out={work_dir}",
            f"default_hooks.comparison.start={tmp_path / 'start.pth'}",
        ]
        no_val = ("val_cfg=None", "val_dataloader=None", "val_evaluator=None")
        draws.clear()
        run(train, configs["detection"], work_dir, *args, options=(*options, *no_val))
        return list(draws)

    relu = done("ReLU", "relu", 2)
    assert len(set(relu)) == 2 and done("MetaAconC", "meta", 1) + done("MetaAconC", "meta", 2, "--resume") == relu
    start = [json.loads((tmp_path / name / "start.json").read_text())["digest"] for name in ("relu", "meta")]
    assert start[0] == start[1]
    assert [line["iter"] for line in read_lines(tmp_path / "meta" / "steps.jsonl")] == [1, 2]
    assert json.loads((tmp_path / "meta" / "trained.json").read_text())["step_time"] > 0
