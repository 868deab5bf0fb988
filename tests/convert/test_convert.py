"""``act_cfg`` on the five models: the right sites, the right channels, and nothing else changed."""

import copy

import pytest
import torch
from mmdet.models.backbones import resnet
from mmengine.registry import MODELS
from torch import nn

import acon_mm
from acon_mm.compat import strict_zip
from helpers.act_trace import acons
from helpers.five_models import (
    BASES,
    DETECTORS,
    HEAD_CHANNELS,
    PARTS,
    batch,
    build,
    every_part,
    model_cfg,
    total_loss,
)

MODELS_AND_DEPTHS = [*((name, 18) for name in BASES), ("retinanet", 50), ("mask-rcnn", 50), ("pspnet", 50)]


def relus(model):
    return [name for name, module in model.named_modules() if isinstance(module, nn.ReLU)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "depth"), MODELS_AND_DEPTHS)
@pytest.mark.parametrize("acon", ["AconC", "MetaAconC"])
def test_every_acon_runs_and_learns(name, depth, acon):
    """At all sites of all parts, an ACON is called with its channels (forward checks them) and gets a gradient."""
    model = build(name, depth, **every_part(name, act_cfg=dict(type=acon, init="paper"), act_sites="all"))
    assert relus(model) == (["bbox_head.relu"] if name == "retinanet" else [])  # that one is never called
    called = set()
    for module_name, module in acons(model).items():
        module.register_forward_hook(lambda *_, module_name=module_name: called.add(module_name))
    loss = total_loss(model.train(), *batch(name))
    assert called == set(acons(model))
    loss.backward()
    for module_name, module in acons(model).items():
        assert type(module).__name__ == acon
        for parameter_name, parameter in module.named_parameters():
            assert parameter.grad is not None, f"{module_name}.{parameter_name}"
            assert parameter.grad.isfinite().all(), f"{module_name}.{parameter_name}"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "depth"), MODELS_AND_DEPTHS)
def test_relu_at_every_site_is_the_original(name, depth):
    """Rewritten forwards compute the same: outputs and gradients are those of the original classes."""
    original = build(name, depth)
    model = copy.deepcopy(original)
    report = acon_mm.convert_activations(model, dict(type="ReLU"), "all")
    assert len(relus(model)) == len(report.converted) + ("bbox_head.relu" in report.kept) > len(relus(original))
    assert type(model.backbone.layer1[0]) is not type(original.backbone.layer1[0])
    assert model.state_dict().keys() == original.state_dict().keys()
    inputs, samples = batch(name)
    outputs = []
    for each in (model, original):
        outputs.append(each.eval()(inputs, samples, mode="tensor"))
    torch.testing.assert_close(*outputs, rtol=0, atol=0)
    losses = []
    for each in (model, original):
        torch.manual_seed(0)  # dropout and the samplers draw
        losses.append(total_loss(each.train(), inputs, samples))
        losses[-1].backward()
    assert losses[0] == losses[1]
    for (key, new), old in strict_zip(model.named_parameters(), original.parameters()):
        torch.testing.assert_close(new.grad, old.grad, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("sites", [None, "all"])
def test_relu_checkpoint_loads(name, sites):
    checkpoint = build(name).state_dict()
    options = dict(act_cfg=dict(type="MetaAconC"))
    if sites:
        options["act_sites"] = sites
    model = build(name, **every_part(name, **options))
    result = model.load_state_dict(checkpoint, strict=False)
    own = {f"{path}.{key}" for path, module in acons(model).items() for key in module.state_dict()}
    assert result.unexpected_keys == []
    # What an older checkpoint may lack is not missing.
    optional = {key for key in own if key.endswith(("num_batches_tracked", "_extra_state"))}
    assert set(result.missing_keys) == own - optional


@pytest.mark.parametrize(
    "act_cfg",
    [
        dict(type="SiLU"),
        dict(type="GELU"),
        dict(type="LeakyReLU", negative_slope=0.1),
        dict(type="Mish"),
        dict(type="HSwish"),
        dict(type="PReLU"),
        dict(type="ELU"),
        dict(type="AconA"),
        dict(type="AconB"),
        dict(type="AconFReLU"),
    ],
    ids=lambda cfg: cfg["type"],
)
@pytest.mark.slow
@pytest.mark.parametrize("name", ["mask-rcnn", "deeplabv3plus"])
def test_any_registered_activation(name, act_cfg):
    model = build(name, **every_part(name, act_cfg=act_cfg, act_sites="all"))
    assert relus(model) == []
    total_loss(model.train(), *batch(name)).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), key


def test_whole_model_from_its_config_and_from_python():
    model = build("mask-rcnn")
    report = acon_mm.convert_activations(model, dict(type="AconC"))
    heads = {path for path in acons(model) if not path.startswith("backbone")}
    assert len(heads) == 1 + 2 + 5  # RPN, box head, mask head
    assert {path for path in acons(model)} == set(report.converted)
    assert report.kept == {"backbone.stem": "not among act_sites"}
    cfg = model_cfg("mask-rcnn")
    cfg.update(_scope_="mmdet", act_cfg=dict(type="AconC"))
    twin = MODELS.build(cfg)
    assert acons(twin).keys() == acons(model).keys()


def test_a_second_conversion_replaces_the_first():
    model = build("retinanet")
    acon_mm.convert_activations(model, dict(type="SiLU"), "all")
    acon_mm.convert_activations(model, dict(type="AconC"), ["act1"])
    assert {path.rpartition(".")[2] for path in acons(model)} == {"act1"}
    assert sum(isinstance(module, nn.SiLU) for module in model.modules()) == 8 + 1 + 8  # act2, stem, head
    model(batch("retinanet")[0], mode="tensor")


@pytest.mark.parametrize("name", ["retinanet", "pspnet"])
def test_frozen_stages_freeze_their_acons(name):
    options = dict(act_cfg=dict(type="MetaAconC"), act_sites="all", frozen_stages=1)
    model = build(name, 50, backbone=options)
    assert len(acons(model)) > 16 * 3
    frozen = ("backbone.relu", "backbone.stem", "backbone.layer1")
    for when in ("built", "training"):
        if when == "training":
            model.train()
        for path, module in acons(model).items():
            inside = path.startswith(frozen)
            assert all(p.requires_grad != inside for p in module.parameters()), (when, path)
            assert when == "built" or module.training != inside, path


def test_zero_init_residual_survives():
    model = build("retinanet", 50, backbone=dict(act_cfg=dict(type="AconC")))
    assert all(block.norm3.weight.eq(0).all() for block in model.backbone.layer1)
    meta = build("retinanet", 50, backbone=dict(act_cfg=dict(type="MetaAconC", init="paper")))
    norms = [module.bn2 for module in acons(meta).values()]
    assert len(norms) == 16
    assert all(norm.weight.eq(1).all() and norm.bias.eq(0).all() for norm in norms)


@pytest.mark.slow
def test_with_cp_gives_the_same_gradients(monkeypatch):
    gradients, checkpointed, checkpoint = [], [], resnet.cp.checkpoint

    def watched(*args, **kwargs):
        checkpointed.append(args)
        return checkpoint(*args, **kwargs)

    monkeypatch.setattr(resnet.cp, "checkpoint", watched)
    for with_cp in (False, True):
        options = dict(act_cfg=dict(type="AconC"), act_sites="all", with_cp=with_cp)
        model = build("retinanet", 50, backbone=options).eval()  # eval: recomputing would update BN's statistics twice
        sum(out.sum() for out in model.backbone(batch("retinanet")[0].requires_grad_())).backward()
        gradients.append({key: p.grad for key, p in model.backbone.named_parameters()})
    assert len(checkpointed) == 16
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], gradient, msg=lambda text, key=key: f"{key}: {text}")


def test_rpn_with_several_convolutions_activates_once_after_each():
    cfg = dict(type="RPNHead", in_channels=8, feat_channels=8, num_convs=2, _scope_="mmdet")
    head = MODELS.build({**cfg, "act_cfg": dict(type="AconC")})
    assert set(acons(head)) == {"rpn_conv.0.activate", "rpn_conv.1.activate"}
    x = torch.randn(1, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    score, _ = head.forward_single(x)
    torch.testing.assert_close(score, head.rpn_cls(head.rpn_conv(x)))
    assert head.rpn_conv(x).min() < 0  # which a ReLU behind it would have cut
    original = MODELS.build(dict(cfg))
    twin = copy.deepcopy(original)
    acon_mm.convert_activations(twin, dict(type="ReLU"))
    torch.testing.assert_close(twin.forward_single(x), original.forward_single(x), rtol=0, atol=0)


def test_a_norm_that_norm_cfg_freezes_is_frozen():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    acon_mm.convert_activations(model, dict(type="MetaAconC", norm_cfg=dict(type="BN", requires_grad=False)))
    frozen = {name for name, parameter in model[1].named_parameters() if not parameter.requires_grad}
    assert frozen == {"bn1.weight", "bn1.bias", "bn2.weight", "bn2.bias"}


def test_empty_batch_of_rois():
    model = build("mask-rcnn", **every_part("mask-rcnn", act_cfg=dict(type="MetaAconC")))
    bbox_head, mask_head = model.roi_head.bbox_head, model.roi_head.mask_head
    scores, boxes = bbox_head(torch.zeros(0, HEAD_CHANNELS, 7, 7))
    assert scores.shape == (0, 81) and boxes.shape == (0, 320)
    assert mask_head(torch.zeros(0, HEAD_CHANNELS, 14, 14)).shape == (0, 80, 28, 28)
    assert all(module.bn1.running_mean.isfinite().all() for module in acons(model).values())


def test_parts_cover_what_the_models_have():
    """All activations of the five models are in PARTS, so none is left without a test."""
    for name in BASES:
        model = build(name)
        report = acon_mm.convert_activations(model, dict(type="AconC"), "all")
        assert len(report.converted) == len(acons(model))
        assert all(site.startswith(PARTS[name]) for site in report.converted)
        assert (name in DETECTORS) == hasattr(model, "neck")
