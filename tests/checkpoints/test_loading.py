"""The rules of the checked load: what is loaded, what is an error, and what `allow` and `strict` change.

Every error is raised by `refused`, which also checks that the model is unchanged.
"""

import pytest
import torch
from mmengine.registry import MODELS

from acon_mm import AconC
from acon_mm.checkpoints import load_state_dict
from helpers.authors_files import make
from helpers.loading import ACONC, META, SMALL, backbone, refused, retinanet, without

# What is loaded


def test_what_fits_is_loaded():
    """A state dict of the same network: all of it, also where the same tensor has two names."""
    source, model = retinanet(META), retinanet(META)
    for tensor in (*source.parameters(), *source.buffers()):
        if tensor.is_floating_point():
            torch.nn.init.uniform_(tensor)
    state = source.state_dict()
    report = load_state_dict(model, state)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in state.items())
    counted = {key for key in state if not key.endswith(("num_batches_tracked", "_extra_state"))}
    assert set(report.loaded) == counted and not (report.missing or report.started or report.dropped)


def test_an_acon_alone():
    module = AconC(3)
    load_state_dict(module, {name: torch.full((3,), 2.0) for name in ("p1", "p2", "beta")})
    assert module.p2.tolist() == [2.0] * 3


def test_the_rest_of_a_relu_classifier_is_dropped():
    relu = backbone().state_dict()
    model = backbone(ACONC)
    report = load_state_dict(model, relu | {"fc.weight": torch.ones(3, 3), "fc.bias": torch.ones(3)})
    assert report.dropped == ["fc.weight", "fc.bias"] and len(report.started) == 48
    assert report.inits == ["AconC, init='relu': layer*.*.act1, layer*.*.act2"]
    assert torch.equal(model.layer3[1].conv2.weight, relu["layer3.1.conv2.weight"])


def test_a_bias_of_zeros_is_dropped():
    state = backbone().state_dict() | {"conv1.bias": torch.zeros(8)}
    assert load_state_dict(backbone(ACONC), state).dropped == ["conv1.bias"]


def test_a_single_missing_tensor_keeps_its_value():
    model, name = backbone(ACONC), "layer2.0.downsample.1.running_mean"
    model.get_buffer(name).fill_(3)
    report = load_state_dict(model, without(name, backbone().state_dict()))
    assert report.missing == [name] and (model.get_buffer(name) == 3).all()


def test_acons_of_some_places_load_where_the_model_has_more():
    everywhere = MODELS.build(dict(type="mmdet.ResNet", **SMALL, act_cfg=ACONC, act_sites="all"))
    one = MODELS.build(dict(type="mmdet.ResNet", **SMALL, act_cfg=ACONC, act_sites=["act1"]))
    report = load_state_dict(everywhere, one.state_dict())
    assert {key.split(".")[-2] for key in report.started} == {"relu", "act2"}
    refused(one, everywhere.state_dict(), r"it has AconC at relu, layer\*.\*.act2, where the model has no ACON: set")


# Errors


@pytest.mark.parametrize(
    ("added", "message"),
    [
        (
            {"layer3.0.conv1.weight": torch.zeros(3)},
            r"for layer3.0.conv1.weight: \(3,\) in .*, \(32, 16, 3, 3\) in the",
        ),
        ({"layer3.9.conv1.weight": torch.zeros(3)}, r"1 of its tensors are not in the model: layer\*.\*.conv1.weight"),
        ({"layer1.0.conv1.bias": torch.ones(8)}, r"1 of its tensors are not in the model: layer\*.\*.conv1.bias"),
    ],
)
def test_wrong_and_unexpected_tensors(added, message):
    error = refused(backbone(ACONC), backbone().state_dict() | added, message)
    assert error.startswith("the checkpoint does not fit ResNet: ") and "type='LoadCheckHook', allow=[...]" in error


def test_a_weight_that_is_no_tensor():
    refused(
        backbone(ACONC), backbone().state_dict() | {"conv1.weight": 3}, "not dense tensors of real numbers: conv1.w"
    )


def test_a_part_of_norms_alone_keeps_its_values():
    assert load_state_dict(backbone(ACONC), without("bn1.", backbone().state_dict())).missing[0] == "bn1.weight"


@pytest.mark.parametrize("part", ["layer4", "layer4.1"])
def test_a_part_without_weights(part):
    refused(backbone(ACONC), without(f"{part}.", backbone().state_dict()), f"it has no weights for {part}[.] ")


def test_whole_models_given_as_parts_and_parts_given_as_whole_models():
    state = backbone(depth=50, base_channels=4).state_dict()
    message = r"of backbone alone: load it by model.backbone.init_cfg=dict\(type='Pretrained'"
    refused(retinanet(), state, message)
    message = r"begin with 'backbone.': load it by init_cfg=dict\(type='Pretrained', prefix='backbone.'"
    refused(backbone(ACONC), {f"backbone.{key}": value for key, value in backbone().state_dict().items()}, message)


def test_files_of_others():
    refused(backbone(ACONC), {"a": torch.ones(3)}, "none of its 1 tensors are in the model: a[.] If a")
    refused(backbone(ACONC), {}, "none of its 0 tensors are in the model")
    official = "it is a file of the authors: convert it with tools/model_converters/convert_checkpoint.py official"
    refused(backbone(ACONC), make(18, "AconC", 8, 8), official)
    refused(retinanet(), make(50, "AconC", 8, 4), official)


def test_parts_that_a_whole_model_does_not_have():
    """What is dropped for a backbone, its classifier for instance, is an error for a detector."""
    state = retinanet().state_dict() | {"mask_head.weight": torch.ones(2)}
    refused(retinanet(), state, "1 of its tensors are not in the model: mask_head.weight")


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (ACONC, META),
        (META, ACONC),
        (dict(type="AconFReLU"), ACONC),
        (ACONC, dict(type="AconA")),  # which has all of its parameters in the checkpoint
        (META, dict(type="MetaAconC", generator="layer")),
    ],
)
def test_another_type_of_acon(source, target):
    there, here = source["type"], target["type"]
    message = rf"layer\*.\*.act1, layer\*.\*.act2 is {there} in the checkpoint and {here}.* in the model: set the same"
    refused(backbone(target), backbone(source).state_dict(), message)


def test_an_acon_with_other_channels():
    state = backbone(ACONC).state_dict() | {"layer1.0.act1.p2": torch.ones(9)}
    refused(
        backbone(ACONC), state, r"size mismatch for layer1.0.act1.p2: \(9,\) in the checkpoint, \(8,\) in the model"
    )


def test_an_acon_in_part():
    state = backbone(ACONC).state_dict()
    message = r"layer1.0.act1 is MetaAconC without fc1 .* in the checkpoint and AconC in the model"
    refused(backbone(ACONC), without("layer1.0.act1.beta", state), message)
    state = without("layer1.0.act1.bn1.weight", backbone(META).state_dict())
    message = (
        r"of layer1.0.act1, the checkpoint does not have bn1.weight \(Meta-ACON of yolov5 has no norms: set norm_cfg"
    )
    refused(backbone(META), state, message)
    assert not load_state_dict(backbone(META), state, allow=["layer1.0.act1"]).missing


def test_an_acon_with_more_than_the_model_has():
    """A Meta-ACON with norms for one without computes something else."""
    message = r"96 of its tensors are not in the model: layer\*.\*.act1.bn1.weight, "
    refused(backbone(META | dict(norm_cfg=None)), backbone(META).state_dict(), message)


def test_all_errors_are_in_one_message():
    state = without("layer4.", backbone().state_dict()) | {"conv1.weight": torch.ones(1), "layer1.5.x": torch.ones(1)}
    error = refused(backbone(ACONC), state, "it has no weights for layer4; size mismatch for conv1.weight: ")
    assert "; 1 of its tensors are not in the model: layer*.*.x. If a difference is intended, list it: " in error


# allow and strict


def test_allowed_differences_pass():
    state = retinanet(classes=4).state_dict()
    model = retinanet(classes=6)
    before = model.bbox_head.retina_cls.weight.clone()
    refused(model, state, r"size mismatch for bbox_head\.retina_cls\.weight")
    refused(model, state, r"size mismatch for bbox_head\.retina_cls\.weight", allow=["bbox_head.retina_cl", "", "x"])
    for allow in (["bbox_head.retina_cls"], ["*.retina_cls.*"]):
        report = load_state_dict(model, state, allow=allow)
        assert report.wrong_shape == ["bbox_head.retina_cls.weight", "bbox_head.retina_cls.bias"]
        assert torch.equal(model.bbox_head.retina_cls.weight, before)
    assert torch.equal(model.neck.lateral_convs[0].conv.weight, state["neck.lateral_convs.0.conv.weight"])


@pytest.mark.parametrize(
    ("change", "allow", "row"),
    [
        (lambda state: without("layer4.", state), "layer4", "missing"),
        (lambda state: state | {"layer3.9.conv1.weight": torch.ones(3)}, "layer3.9", "dropped"),
    ],
)
def test_allowed_parts_pass(change, allow, row):
    state = change(backbone().state_dict())
    refused(backbone(ACONC), state, "layer", allow=["layer2"])
    rows = getattr(load_state_dict(backbone(ACONC), state, allow=[allow]), row)
    assert rows and all(key.startswith(allow) for key in rows)


def test_another_type_of_acon_is_allowed_by_name():
    model = backbone(META)
    report = load_state_dict(model, backbone(ACONC).state_dict(), allow=["*.act1.*", "*.act2.*"])
    assert {key.rpartition(".")[2] for key in report.dropped} == {"beta"} and "layer1.0.act1.p1" in report.loaded


def test_strict_is_about_all_but_acons():
    """EMAHook loads with strict=True; that ACON's parameters are missing is no reason to fail."""
    relu = backbone().state_dict()
    assert load_state_dict(backbone(ACONC), relu, strict=True).started
    state = without("layer2.0.downsample.1.running_mean", relu)
    refused(backbone(ACONC), state, r"it does not have layer\*\.\*\.downsample", strict=True)
    assert load_state_dict(backbone(ACONC), state, strict=True, allow=["layer2.0.downsample"]).missing
