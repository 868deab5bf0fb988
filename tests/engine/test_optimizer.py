"""AconOptimWrapperConstructor: decay and learning rate of what belongs to ACONs, on top of any other constructor."""

from __future__ import annotations

import pytest
from mmengine.optim import build_optim_wrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, DefaultScope
from torch import nn

from acon_mm import AconA, AconB, AconC, AconFReLU, MetaAconC
from acon_mm.layers import Acon

LR, DECAY = 0.1, 0.01


def model() -> nn.Module:
    """ACONs of all kinds at the layers of a small ConvNeXt."""
    network = nn.Module()
    network.backbone = type("ConvNeXt", (nn.Module,), {})()
    acons = (AconA(4), AconB(4), AconC(4), MetaAconC(4, r=2), AconFReLU(4))
    stages = [nn.ModuleList([nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), acon)]) for acon in acons]
    network.backbone.stages = nn.ModuleList(stages[:4])
    network.head = stages[4]
    return network


def settings(network: nn.Module, constructor: str | None, paramwise_cfg: dict | None, **options) -> dict:
    """(learning rate, weight decay) of every parameter, by its name."""
    cfg = dict(optimizer=dict(type="SGD", lr=LR, weight_decay=DECAY), paramwise_cfg=paramwise_cfg, **options)
    if constructor is not None:
        cfg["constructor"] = constructor
    groups = build_optim_wrapper(network, cfg).optimizer.param_groups
    names = {id(p): name for name, p in network.named_parameters()}
    found = [(names[id(p)], (group["lr"], group["weight_decay"])) for group in groups for p in group["params"]]
    assert len(found) == len(names) == len(dict(found))
    for group in groups:
        assert group.get("param_names", [names[id(p)] for p in group["params"]]) == [
            names[id(p)] for p in group["params"]
        ]
    return dict(found)


def owned(network: nn.Module, generator: bool) -> set[str]:
    return {
        f"{place}.{name}"
        for place, module in network.named_modules()
        if isinstance(module, Acon)
        for name, _ in module.named_parameters(recurse=generator)
    }


LAYERS = dict(num_layers=6, decay_rate=0.5, decay_type="stage_wise")


@pytest.mark.parametrize("generator", [False, True])
@pytest.mark.parametrize(
    ("scope", "constructor", "others"),
    [
        ("mmengine", None, {}),
        ("mmengine", None, dict(norm_decay_mult=0, custom_keys={"backbone": dict(lr_mult=0.1)})),
        ("mmdet", "LearningRateDecayOptimizerConstructor", LAYERS),
        ("mmseg", "LearningRateDecayOptimizerConstructor", LAYERS),
    ],
)
def test_it_changes_what_acons_own_and_nothing_else(generator, scope, constructor, others):
    if scope != "mmengine":
        pytest.importorskip(f"{scope}.engine")
    network = model()
    with DefaultScope.overwrite_default_scope(scope):
        before = settings(network, constructor, others)
        acon = dict(decay_mult=0.5, lr_mult=3, generator=generator)
        if constructor is not None:
            acon["constructor"] = constructor
        after = settings(network, "AconOptimWrapperConstructor", dict(others, acon=acon))
    mine = owned(network, generator)
    assert {"backbone.stages.1.0.2.p", "backbone.stages.3.0.2.p2"} <= mine
    assert ("backbone.stages.3.0.2.fc1.weight" in mine) == ("head.0.2.conv_frelu.weight" in mine) == generator
    for name, (lr, decay) in before.items():
        expected = (pytest.approx(3 * lr), pytest.approx(0.5 * DECAY)) if name in mine else (lr, decay)
        assert after[name] == expected, name


def test_without_settings_there_is_no_decay():
    network = model()
    after = settings(network, "AconOptimWrapperConstructor", None)
    mine = owned(network, False)
    assert {name for name, (_, decay) in after.items() if decay == 0} == mine
    assert {lr for lr, _ in after.values()} == {LR}


def test_the_log_shows_the_base_learning_rate():
    cfg = dict(optimizer=dict(type="SGD", lr=LR), constructor="AconOptimWrapperConstructor")
    cfg["paramwise_cfg"] = dict(acon=dict(lr_mult=3))
    rates = build_optim_wrapper(model(), cfg).get_lr()
    assert rates["base_lr"] == [LR] and sorted(rates["lr"]) == pytest.approx([LR, 3 * LR])


def test_frozen_acons_and_models_without_acons():
    frozen = nn.Sequential(nn.Linear(4, 4), AconC(4).requires_grad_(False))
    assert settings(frozen, "AconOptimWrapperConstructor", None)["0.weight"] == (LR, DECAY)
    assert settings(nn.Linear(4, 4), "AconOptimWrapperConstructor", None)["weight"] == (LR, DECAY)


@pytest.mark.parametrize(
    ("acon", "message"),
    [
        (dict(decay=0), "paramwise_cfg.acon takes decay_mult, lr_mult, generator and constructor, got decay"),
        (dict(lr_mult=-1), "paramwise_cfg.acon.lr_mult must be a finite number of 0 or more, got -1"),
        (dict(lr_mult=float("inf")), "paramwise_cfg.acon.lr_mult must be a finite number of 0 or more, got inf"),
        (7, "paramwise_cfg.acon must be a dict, got 7"),
        (dict(decay_mult="0"), "paramwise_cfg.acon.decay_mult must be a finite number of 0 or more, got '0'"),
        (dict(decay_mult=float("nan")), "paramwise_cfg.acon.decay_mult must be a finite number of 0 or more, got nan"),
        (dict(generator=0), "paramwise_cfg.acon.generator must be True or False, got 0"),
    ],
)
def test_wrong_settings(acon, message):
    with pytest.raises(ValueError, match=message):
        settings(model(), "AconOptimWrapperConstructor", dict(acon=acon))


def test_parameters_that_the_optimizer_does_not_have():
    """As when a wrapper of the model has put them into others."""

    @OPTIM_WRAPPER_CONSTRUCTORS.register_module()
    class OtherParameters:
        def __init__(self, optim_wrapper_cfg, paramwise_cfg):
            self.cfg = optim_wrapper_cfg

        def __call__(self, model):
            return build_optim_wrapper(nn.Linear(2, 2), self.cfg)

    try:
        with pytest.raises(ValueError, match="does not find the ACONs' parameters in the optimizer"):
            settings(model(), "AconOptimWrapperConstructor", dict(acon=dict(constructor="OtherParameters")))
    finally:
        OPTIM_WRAPPER_CONSTRUCTORS.module_dict.pop("OtherParameters")
