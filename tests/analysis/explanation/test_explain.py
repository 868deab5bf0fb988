"""What is said of a config is true of its model: sites, reasons, parameters, calls."""

import pytest
from mmengine.config import Config
from torch import nn

from acon_mm.analysis.explanation import explain
from acon_mm.errors import UserError
from helpers import coverage_models
from helpers.coverage_models import segmentor
from helpers.pages import ROOT

DETECTOR = "detection/retinanet_r18_fpn_6e_digits.py"
META_DETECTOR = "detection/retinanet_r18-metaaconc_fpn_6e_digits.py"
SEGMENTOR = "segmentation/deeplabv3_r18-d16-metaaconc_1xb8-300_digits-160x160.py"


def explained(config: str, shape=(64, 64), **options):
    cfg = Config.fromfile(ROOT / "configs" / config)
    cfg.merge_from_dict({name.replace("__", "."): value for name, value in options.items()})
    return explain(cfg, shape)


def of_segmentor(backbone: type, **head):
    model = segmentor(backbone, **head)
    model["backbone"]["act_cfg"] = dict(type="AconC")
    return explain(Config(dict(default_scope="mmseg", model=model)), (32, 32))


def kept(explanation) -> dict[str, tuple[str, str, bool]]:
    return {each.name: (each.type, each.reason, each.is_site) for each in explanation.kept}


@pytest.mark.slow
def test_a_detector_whose_head_is_called_at_each_level():
    found = explained(META_DETECTOR, shape=(64, 96), model__bbox_head__act_cfg=dict(type="AconC", init="relu"))
    assert (found.model, found.not_run) == ("RetinaNet", {})
    by_name = {each.name: each for each in found.activations}
    blocks = [f"backbone.layer{i}.{j}.act{k}" for i in (1, 2, 3, 4) for j in (0, 1) for k in (1, 2)]
    convs = [f"bbox_head.{branch}_convs.{i}.activate" for branch in ("cls", "reg") for i in (0, 1)]
    assert list(by_name) == [*blocks, *convs]
    conv = by_name[convs[0]]
    assert (conv.type, conv.channels, conv.channel_dim) == ("AconC", 128, 1)
    assert conv.options == dict(init="relu", memory="default")
    assert (conv.parameters, conv.runs, conv.frozen) == (3 * 128, "always", False)
    assert conv.shapes == [(1, 128, 8, 12), (1, 128, 4, 6), (1, 128, 2, 3)]
    assert conv.elements == [12288, 3072, 768] and conv.flops == 8 * sum(conv.elements) + 3 * 2 * 128
    block = by_name[blocks[0]]
    norm_cfg = dict(type="BN")
    assert block.options == dict(
        init="swish", memory="default", generator="channel", r=16, norm_cfg=norm_cfg, beta_scale=2.0
    )
    assert (block.type, block.channels, block.shapes) == ("MetaAconC", 64, [(1, 64, 16, 24)])
    assert kept(found) == {
        "backbone.stem": ("ReLU", "not among the default act_sites of backbone", True),
        "bbox_head.relu": ("ReLU", "never called", False),
    }


@pytest.mark.slow
def test_costs_are_what_the_acons_add():
    plain, converted = explained(DETECTOR), explained(DETECTOR, model__backbone__act_cfg=dict(type="AconFReLU"))
    assert plain.activations == [] and len(plain.kept) == 22
    assert kept(plain)["backbone.layer1.0.act1"] == ("ReLU", "no act_cfg for backbone", True)
    assert converted.parameters - plain.parameters == converted.added_parameters > 0
    assert converted.flops == plain.flops > 0  # the convolutions inside of the ACONs are not counted among the others
    assert converted.added_flops == sum(each.flops for each in converted.activations) > 0


@pytest.mark.slow
def test_a_segmentor_with_a_head_for_training():
    found = explained(SEGMENTOR, model__auxiliary_head__act_cfg=dict(type="AconC"))
    *backbone, auxiliary = found.activations
    assert {each.runs for each in backbone} == {"always"}
    assert (auxiliary.name, auxiliary.runs) == ("auxiliary_head.convs.0.activate", "training only")
    assert auxiliary.shapes == [(2, 64, 4, 4)]  # there are two pictures in a training step
    assert found.added_flops == sum(each.flops for each in backbone)
    assert kept(found)["decode_head.bottleneck.activate"] == ("ReLU", "no act_cfg for decode_head", True)


@pytest.mark.slow
def test_act_sites():
    options = dict(model__backbone__act_sites=["layer4.1", "stem"], model__bbox_head__act_cfg=dict(type="SiLU"))
    found = explained(META_DETECTOR, **options, model__backbone__frozen_stages=1)
    assert [(each.name, each.frozen) for each in found.activations] == [
        ("backbone.stem", True),
        ("backbone.layer4.1.act1", False),
        ("backbone.layer4.1.act2", False),
    ]
    reasons = kept(found)
    assert reasons["backbone.layer4.0.act2"] == ("ReLU", "not among the act_sites of backbone", True)
    assert reasons["bbox_head.cls_convs.0.activate"] == ("SiLU", "set by the act_cfg of bbox_head", True)


@pytest.mark.slow
def test_heads_get_boxes_though_the_weights_are_random():
    config = "detection/mask-rcnn_r18_fpn_6e_digits.py"
    act_cfg = dict(type="AconC")
    found = explained(config, model__roi_head__mask_head__act_cfg=act_cfg, model__test_cfg__rcnn__max_per_img=7)
    mask = [each for each in found.activations if each.name == "roi_head.mask_head.relu"]
    assert [each.shapes for each in mask] == [[(7, 64, 28, 28)]]
    assert kept(found)["rpn_head.rpn_act"] == ("function", "no act_cfg for rpn_head", True)


def test_an_acon_that_never_runs():
    found = of_segmentor(coverage_models.NotCalled)
    assert [(each.name, each.runs, each.flops) for each in found.activations] == [("backbone.layers.1", "never", 0)]


def test_a_call_that_nobody_reads():
    model = segmentor(coverage_models.Functional, num_convs=1)
    found = explain(Config(dict(default_scope="mmseg", model=model)), (32, 32))
    assert kept(found) == {
        "decode_head.convs.0.activate": ("ReLU", "no act_cfg for decode_head", True),
        next(each.name for each in found.kept if each.name.startswith("backbone.self.norm(self.conv(x)).clamp")): (
            "function",
            "acon_mm does not know this call",
            False,
        ),
    }


class Fails(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())

    def forward(self, x):
        raise ValueError("needs another input")


def test_a_model_that_does_not_run_is_explained_without_costs():
    found = of_segmentor(Fails)
    assert found.not_run.keys() == {"predict", "loss"}
    assert all(error.startswith("ValueError: needs another input (") for error in found.not_run.values())
    assert [(each.name, each.parameters, each.runs) for each in found.activations] == [
        ("backbone.layers.1", 12, "unknown")
    ]


class FailsInInference(Fails):
    def forward(self, x):
        return (self.layers(x),) if self.training else super().forward(x)


def test_an_acon_is_not_for_training_only_because_inference_fails():
    found = of_segmentor(FailsInInference)
    assert found.not_run.keys() == {"predict"}
    assert [(each.runs, each.shapes) for each in found.activations] == [("unknown", [])]


def test_a_part_of_a_model_is_not_run():
    model = dict(type="ResNet", depth=18, act_cfg=dict(type="AconC"))
    found = explain(Config(dict(default_scope="mmdet", model=model)), (32, 32))
    assert found.not_run == {"inference": "ResNet is none of mmdet's or mmseg's kinds of model"}
    assert len(found.activations) == 16 and {each.runs for each in found.activations} == {"unknown"}


def test_a_model_that_cannot_be_built():
    model = dict(type="ResNet", depth=18, act_cfg=dict(type="AconC"), act_sites=["layer9"])
    with pytest.raises(UserError, match=r"^the model cannot be built: ValueError: .*no site matches 'layer9'"):
        explain(Config(dict(default_scope="mmdet", model=model)), (32, 32))
