"""`AconMonitorHook`: what it shows of a training."""

import json
import math

import pytest
import torch
from torch.nn.modules import module as torch_module

from acon_mm.engine import AconMonitorHook
from helpers.tiny_runs import run, train

NO_VAL = ("val_cfg=None", "val_dataloader=None", "val_evaluator=None")
LAYER = "acon/backbone.layer1.0.act2/"


@pytest.mark.slow
@pytest.mark.parametrize("act", ["AconC", "MetaAconC"])
def test_what_is_shown(act, configs, tmp_path):
    options = (f"model.backbone.act_cfg.type={act}", "default_hooks.monitor.type=AconMonitorHook")
    run(train, configs["segmentation"], tmp_path, options=(*options, "default_hooks.monitor.interval=1", *NO_VAL))
    (scalars,) = tmp_path.glob("*/vis_data/scalars.json")
    lines = [line for line in map(json.loads, scalars.read_text().splitlines()) if f"{LAYER}p1_q50" in line]
    assert [line["step"] for line in lines] == [1, 2]
    for line in lines:
        seen = {name.removeprefix(LAYER): value for name, value in line.items() if name.startswith(LAYER)}
        expected = {f"{name}_q{quantile}" for name in ("p1", "p2", "beta") for quantile in ("05", "50", "95")}
        assert set(seen) == expected | {"linear", "relu", "other", "moved", "grad_norm"}
        assert seen["linear"] + seen["relu"] + seen["other"] == pytest.approx(1)
        assert seen["p1_q50"] == pytest.approx(1, abs=0.1) and seen["beta_q50"] == pytest.approx(1, abs=0.1)
        if act == "AconC" and line["step"] == 1:
            # The first step of SGD, at a learning rate of 0.001, moves by the gradient of 3 x 8 parameters.
            assert seen["grad_norm"] == pytest.approx(math.sqrt(3 * 8) * seen["moved"] / 0.001, rel=0.01)
        assert seen["moved"] > 0 and seen["grad_norm"] > 0
    (picture,) = tmp_path.glob("*/vis_data/vis_image/acon_curves_2.png")
    assert picture.stat().st_size > 1000


@pytest.mark.slow
def test_it_leaves_training_as_it_is(configs, tmp_path):
    """Also the statistics of Meta-ACON's norms."""
    states = []
    for name, options in (("plain", ()), ("seen", ("default_hooks.monitor.type=AconMonitorHook",))):
        more = ("default_hooks.monitor.interval=1",) if options else ()
        meta = "model.backbone.act_cfg.type=MetaAconC"
        run(train, configs["segmentation"], tmp_path / name, options=(meta, *options, *more, *NO_VAL))
        states.append(torch.load(tmp_path / name / "iter_2.pth")["state_dict"])
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert not torch_module._global_forward_pre_hooks


@pytest.mark.parametrize("arguments", [{"interval": 0}, {"figure_interval": -1}, {"interval": "x"}, {"interval": 1.5}])
def test_errors(arguments):
    with pytest.raises(ValueError, match=r"interval must be an int of [01] or more, got "):
        AconMonitorHook(**arguments)
