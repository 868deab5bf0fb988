"""What a comparison compares, and the configs of its runs."""

from copy import deepcopy
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.optim import DefaultOptimWrapperConstructor, build_optim_wrapper
from torch import nn

from acon_mm import AconB
from acon_mm.analysis.comparison.variants import different, parse_act, run_config, variants, with_variant
from acon_mm.errors import UserError
from helpers.pages import ROOT

DETECTOR = Config.fromfile(ROOT / "configs/detection/retinanet_r18_fpn_6e_digits.py")


@pytest.mark.parametrize(
    ("text", "act_cfg"),
    [
        ("ReLU", {"type": "ReLU"}),
        ("config", None),
        ("MetaAconC(norm_cfg=None, r=8)", {"type": "MetaAconC", "norm_cfg": None, "r": 8}),
        (
            "MetaAconC(norm_cfg=dict(type='GN', num_groups=4))",
            {"type": "MetaAconC", "norm_cfg": {"type": "GN", "num_groups": 4}},
        ),
    ],
)
def test_activations_with_options(text, act_cfg):
    assert parse_act(text) == act_cfg


@pytest.mark.parametrize("text", ["AconC(", "AconC('relu')", "AconC(r=open('a'))", "1 + 1", "a.B"])
def test_other_words_are_errors(text):
    with pytest.raises(UserError, match=r"^--acts takes names with options"):
        parse_act(text)


def test_combinations():
    """ACONs alone have initial values; what is not varied is not in a name."""
    found = variants(["ReLU", "AconC"], sites=["paper", "all"], inits=["swish", "relu"], lr_mults=[1.0, 10.0])
    assert len(found) == 2 + 2 * 2 * 2
    assert found[0].label == "ReLU, sites paper" and found[-1].label == "AconC, sites all, init relu, lr x 10"
    assert (found[-1].act_cfg, found[-1].lr_mult) == ({"type": "AconC", "init": "relu"}, 10.0)
    assert [each.label for each in variants(["ReLU", "AconC"], inits=["relu"])] == ["ReLU", "AconC"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"acts": ["ReLU", "ReLU"]}, "these would have the same name: ReLU: name each once"),
        ({"acts": ["Relu"]}, "no activation has the name 'Relu'"),
        (
            {"acts": ["AconC(init='relu')"], "inits": ["swish"]},
            "AconC(init='relu') has an init, and --init gives another",
        ),
    ],
)
def test_errors(arguments, error):
    with pytest.raises(UserError) as raised:
        variants(**arguments)
    assert str(raised.value).startswith(error)


def test_parts():
    (variant,) = variants(["AconC"], sites=["layer3,layer4"], parts=["backbone+head"])
    model = with_variant(DETECTOR, variant).model
    for part in (model.backbone, model.bbox_head):
        assert (part.act_cfg, part.act_sites) == ({"type": "AconC"}, ["layer3", "layer4"])
    assert "act_cfg" not in model.neck and "act_cfg" not in DETECTOR.model.backbone
    with pytest.raises(
        UserError, match=r"^the model has no part 'decode_head': --parts takes model, head, or of .*bbox_head"
    ):
        with_variant(DETECTOR, variants(["AconC"], parts=["decode_head"])[0])


def test_options_of_the_config_do_not_stay():
    cfg = DETECTOR.copy()
    cfg.merge_from_dict({"model.backbone.act_cfg": {"type": "MetaAconC", "r": 4}, "model.backbone.act_sites": "all"})
    backbone = with_variant(cfg, variants(["AconC"])[0]).model.backbone
    assert backbone.act_cfg == {"type": "AconC"} and "act_sites" not in backbone
    assert with_variant(cfg, variants(["config"])[0]).model.backbone.act_cfg.r == 4


@pytest.mark.slow
def test_equal_networks_are_compared_once():
    """At other sites, ReLU is what was there."""
    described: dict = {}
    found = different(DETECTOR, variants(["ReLU", "AconC"], sites=["paper", "all"]), described)
    assert [each.label for each in found] == ["ReLU, sites paper", "AconC, sites paper", "AconC, sites all"]
    assert described["AconC, sites paper"]["acons"] == 16 and described["AconC, sites all"]["acons"] == 17
    assert described["ReLU, sites all"]["parameters"] < described["AconC, sites paper"]["parameters"]
    assert described["ReLU, sites all"]["flops"] < described["AconC, sites paper"]["flops"]


def test_the_config_of_a_run(tmp_path):
    (variant,) = variants(["AconC"], lr_mults=[10.0])
    text = run_config(DETECTOR, variant, 3, tmp_path / "run", Path("start.pth")).pretty_text
    assert text == run_config(DETECTOR, variant, 3, tmp_path / "run", Path("start.pth")).pretty_text
    (tmp_path / "config.py").write_text(text)
    cfg = Config.fromfile(tmp_path / "config.py")
    assert cfg.randomness.seed == 3 and cfg.work_dir == str(tmp_path / "run")
    assert cfg.optim_wrapper.constructor == "AconOptimWrapperConstructor"
    assert cfg.optim_wrapper.paramwise_cfg.acon == {"lr_mult": 10.0}
    assert cfg.default_hooks.comparison == {
        "type": "ComparisonHook",
        "out": str(tmp_path / "run"),
        "start": "start.pth",
    }
    assert cfg.custom_imports.imports == ["acon_mm", "acon_mm.datasets", "acon_mm.analysis.comparison"]


class OtherConstructor(DefaultOptimWrapperConstructor):
    """As a config may name it."""


@pytest.mark.parametrize("constructor", [None, OtherConstructor, "acon_mm.AconOptimWrapperConstructor"])
def test_parameters_are_found_by_their_owner(constructor):
    """AconB's p has no other name in common with p1 and p2. The config's own constructor and settings stay."""
    cfg = deepcopy(DETECTOR)
    cfg.optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.1, weight_decay=0.5))
    cfg.optim_wrapper.paramwise_cfg = dict(norm_decay_mult=0.5, acon=dict(decay_mult=0.2))
    if constructor:
        cfg.optim_wrapper.constructor = constructor
    (variant,) = variants(["AconB"], lr_mults=[10.0])
    cfg = with_variant(cfg, variant)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), AconB(4))
    groups = build_optim_wrapper(model, cfg.optim_wrapper.to_dict()).optimizer.param_groups
    settings = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    expected = {"0.weight": (0.1, 0.5), "1.weight": (0.1, 0.25), "2.p": (1.0, 0.1), "2.beta": (1.0, 0.1)}
    named = dict(model.named_parameters())
    assert {name: settings[id(named[name])] for name in expected} == expected
    other = cfg.optim_wrapper.paramwise_cfg.acon.get("constructor")
    assert other is (OtherConstructor if constructor is OtherConstructor else None)
