"""The check of one model finds what is wrong with it."""

from importlib.util import find_spec
from pkgutil import resolve_name

import pytest
import torch
from torch import nn

from acon_mm.analysis import shipped_configs
from acon_mm.analysis.build import _small
from acon_mm.analysis.config_coverage import samples, trace
from acon_mm.analysis.config_coverage.check import check
from acon_mm.analysis.config_coverage.passes import _recorded_calls
from helpers import coverage_models
from helpers.coverage_models import segmentor

ACON = dict(type="AconC")


@pytest.fixture
def backbones():
    from mmseg.registry import MODELS

    for cls in coverage_models.BACKBONES:
        MODELS.register_module(module=cls)
    yield
    for cls in coverage_models.BACKBONES:
        MODELS.module_dict.pop(cls.__name__)


@pytest.mark.parametrize(
    ("backbone", "head", "problem", "detail"),
    [
        # The head has an activation to convert, the backbone calls a function.
        ("Functional", dict(num_convs=1), "left over", "backbone.self.norm(self.conv(x)).clamp(min=0)"),
        ("Unknown", {}, "cannot be converted", "backbone.act: a function outside of the class calls it"),
        ("TwoSizes", dict(in_channels=8, channels=8), "wrong channels", "ValueError: AconC at Sequential.1 has 4 ch"),
        ("Detached", {}, "without gradient", "backbone.layers.1"),
        ("NotCalled", {}, "never called", "backbone.layers.1"),
    ],
)
def test_check_finds(backbones, backbone, head, problem, detail):
    result = check(segmentor(backbone, **head), "mmseg", ACON)
    assert result["status"] == "failed"
    assert result["problems"][problem][0].startswith(detail)


def test_an_activation_that_learns_nothing_without_acon_either_is_no_problem(backbones):
    result = check(segmentor("Unused"), "mmseg", ACON)
    assert (result["status"], result["unused"]) == ("converted", ["backbone.branch.1"])


def test_model_without_activations(backbones):
    result = check(segmentor("NoActivation"), "mmseg", ACON)
    assert result["status"] == "none"
    assert result["error"] == (
        "EncoderDecoder has no activation that act_cfg could replace: remove act_cfg from its config"
    )
    hidden = check(segmentor("Functional"), "mmseg", ACON)
    assert hidden["status"] == "failed"
    assert hidden["problems"].keys() == {"activations, but none was found"}


def test_model_that_its_own_package_does_not_build():
    result = check(segmentor("NoSuchBackbone"), "mmseg", ACON)
    assert result["status"] == "unbuildable"
    assert result["error"].startswith("KeyError: 'EncoderDecoder: ") or "NoSuchBackbone" in result["error"]


def test_a_pass_that_fails_without_acon_too_is_no_problem_of_acon(backbones):
    result = check(segmentor("Detached", in_channels=5, channels=5), "mmseg", ACON)
    assert result["passes"] == {}
    assert len(result["not_run"]) == 2
    assert all(error.startswith("RuntimeError: Given groups=1") for error in result["not_run"].values())


@pytest.mark.slow
def test_a_module_whose_call_fails_midway_does_not_count_as_run():
    model = nn.Sequential(nn.Sequential(nn.ReLU(), nn.Linear(3, 2)), nn.ReLU())
    called: set[str] = set()
    with _recorded_calls(model, called), pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        model(torch.zeros(2, 4))
    assert called == {"0.0"}  # of the second ReLU nothing is known: it is not "never called"


def test_persons_are_high_and_roi_align_is_mmcvs():
    pictures, _ = samples.reid_batch(256)
    assert pictures.shape[-2:] == (256, 128)  # as the pooling of reid and deepsort wants
    assert _small([dict(type="RoIAlign", use_torchvision=True)]) == [dict(type="RoIAlign", use_torchvision=False)]


def test_a_teacher_outside_of_the_modules_stays():
    result = check(shipped_configs.model_of("mmdet/ld/ld_r18-gflv1-r101_fpn_1x_coco.py"), "mmdet", ACON)
    assert (result["status"], result["problems"]) == ("converted", {})
    assert result["kept_calls"][trace.TEACHER] > 0


@pytest.mark.parametrize("place", trace.NOT_THE_NETWORK)
def test_the_places_outside_of_the_network_exist(place):
    """A misspelt place would excuse nothing."""
    if find_spec(place.partition(".")[0]) is None:
        pytest.skip("it is not installed: acon_mm[coverage]")
    assert resolve_name(place) is not None
