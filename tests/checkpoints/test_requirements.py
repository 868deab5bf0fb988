"""Requirements of converted weights: checked at each load, and kept by what is trained from them."""

import copy
import pickle

import pytest
import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner import load_checkpoint

from acon_mm.checkpoints import CheckpointError, convert_official, load_state_dict, requirements
from helpers.authors_files import make
from helpers.loading import RAW, backbone, left_unchanged, refused, retinanet

AUTHORS = dict(act_cfg=dict(type="AconC"), style="caffe")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    """A file of the authors', converted."""
    path = tmp_path_factory.mktemp("authors") / "converted.pth"
    torch.save(convert_official(make(50, "AconC")), path)
    return str(path)


def test_a_detector_starts_from_the_authors_weights(weights):
    model = retinanet(checkpoint=weights, preprocessor=RAW, **AUTHORS)
    model.init_weights()
    state = torch.load(weights)["state_dict"]
    assert all(torch.equal(model.backbone.state_dict()[key], value) for key, value in state.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(style="pytorch"), "it needs a backbone with style='caffe', not style='pytorch'"),
        (dict(preprocessor=RAW | dict(bgr_to_rgb=True)), "it needs pictures in BGR: set bgr_to_rgb=False"),
        (
            dict(preprocessor=dict(mean=[103.53, 116.28, 123.675], std=[1.0] * 3, bgr_to_rgb=False)),
            r"it needs mean=\[0.0, 0.0, 0.0\] in data_preprocessor, not \[103.53, 116.28, 123.675\]",
        ),
        (dict(act_cfg=None), r"it has AconC, and the model no ACON: set act_cfg=\{'type': 'AconC'\} for the"),
        (
            dict(act_cfg=dict(type="MetaAconC")),
            r"layer\*.\*.act2 is AconC in the checkpoint and MetaAconC in the model",
        ),
        (dict(base_channels=8), "it needs a backbone with base_channels=4, not base_channels=8"),
        (dict(depth=101), "it needs a backbone with depth=50, not depth=101"),
        (dict(deep_stem=True), "it needs a backbone of type='ResNet', whose stem is one 7x7 convolution, not ResNet"),
    ],
)
def test_requirements_that_are_not_met(weights, change, message):
    model = retinanet(**dict(checkpoint=weights, preprocessor=RAW, **AUTHORS) | change)
    with left_unchanged(model.backbone), pytest.raises(CheckpointError, match=message):
        model.backbone.init_weights()


def test_a_place_that_the_model_does_not_have(weights):
    state = torch.load(weights)["state_dict"]
    state._metadata["student.backbone"] = state._metadata.pop("")
    refused(backbone(AUTHORS["act_cfg"]), state, "it has weights of student.backbone, which ResNet does not have")


def test_they_stay_through_training_and_prefix(weights, tmp_path):
    """A model trained from such weights has their requirements, and so has its backbone alone."""
    model = retinanet(checkpoint=weights, preprocessor=RAW, **AUTHORS)
    model.init_weights()
    path = str(tmp_path / "whole.pth")
    torch.save({"state_dict": mmengine_checkpoint.get_state_dict(copy.deepcopy(model))}, path)
    wrong = retinanet(preprocessor=RAW | dict(bgr_to_rgb=True), **AUTHORS)
    with left_unchanged(wrong), pytest.raises(CheckpointError, match="it needs pictures in BGR"):
        load_checkpoint(wrong, path)
    of_backbone = dict(init_cfg=dict(type="Pretrained", checkpoint=path, prefix="backbone."), preprocessor=RAW)
    right = retinanet(**AUTHORS, **of_backbone)
    right.init_weights()
    assert torch.equal(right.backbone.layer1[0].act2.p1, model.backbone.layer1[0].act2.p1)
    with pytest.raises(CheckpointError, match="it needs a backbone with style='caffe'"):
        retinanet(**AUTHORS | dict(style="pytorch"), **of_backbone).init_weights()


def test_other_weights_on_top_take_them_away(weights):
    model = retinanet(checkpoint=weights, preprocessor=RAW, **AUTHORS)
    model.init_weights()
    assert list(requirements.requirements_in(model.state_dict())) == ["backbone"]
    load_state_dict(model, dict(model.state_dict()))  # a plain dict has no metadata
    assert not requirements.requirements_in(model.state_dict())


@pytest.mark.parametrize("bgr_to_rgb", [False, True])
def test_mmseg_preprocessors_are_read_too(weights, bgr_to_rgb):
    init = dict(type="Pretrained", checkpoint=weights)
    cfg = dict(
        type="EncoderDecoder",
        data_preprocessor=dict(type="SegDataPreProcessor", **RAW | dict(bgr_to_rgb=bgr_to_rgb)),
        backbone=dict(type="ResNet", depth=50, stem_channels=8, base_channels=4, init_cfg=init, **AUTHORS),
        decode_head=dict(type="FCNHead", in_channels=128, in_index=3, channels=8, num_classes=3),
    )
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = revert_sync_batchnorm(MODELS.build(cfg))
    if bgr_to_rgb:
        with pytest.raises(CheckpointError, match="it needs pictures in BGR"):
            model.init_weights()
    else:
        model.init_weights()
        assert torch.equal(model.backbone.layer1[0].act2.p1, torch.load(weights)["state_dict"]["layer1.0.act2.p1"])


@pytest.mark.parametrize("bgr_to_rgb", [False, True])
def test_preprocessors_of_semi_supervised_detectors_contain_another(weights, bgr_to_rgb):
    model = retinanet(**AUTHORS)
    inner = dict(type="mmdet.DetDataPreprocessor", **RAW | dict(bgr_to_rgb=bgr_to_rgb))
    model.data_preprocessor = MODELS.build(dict(type="mmdet.MultiBranchDataPreprocessor", data_preprocessor=inner))
    required = requirements.requirements_in(torch.load(weights)["state_dict"])[""]
    unmet = requirements.unmet(required, model, "backbone")
    assert bool(unmet) is bgr_to_rgb and all("it needs pictures in BGR" in problem for problem in unmet)


def test_models_still_copy_and_pickle(weights):
    model = retinanet(checkpoint=weights, preprocessor=RAW, **AUTHORS)
    model.init_weights()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin.backbone._acon_data_preprocessor is twin.data_preprocessor
        assert list(requirements.requirements_in(twin.state_dict())) == ["backbone"]


def test_models_without_acon_remember_no_preprocessor():
    assert "_acon_data_preprocessor" not in vars(retinanet(None, checkpoint="x.pth").backbone)
    assert "_acon_data_preprocessor" in vars(retinanet(checkpoint="x.pth").backbone)


@pytest.mark.parametrize("entry", [None, "caffe", {"acon_mm": "caffe"}, {"acon_mm": None}])
def test_metadata_of_other_types_holds_no_requirements(entry):
    state = backbone().state_dict()
    state._metadata["layer1"] = entry
    assert requirements.requirements_in(state) == {}
