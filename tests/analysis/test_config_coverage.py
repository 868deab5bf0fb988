"""Shipped configs through the check of `config_coverage`, and models in which that check must find what is wrong."""

import json
from pkgutil import resolve_name

import pytest

from acon_mm.analysis.config_coverage import check, configs, run, table, trace
from acon_mm.analysis.config_coverage.build_time import build_times
from helpers import coverage_models

SAMPLE = (
    "mmdet/atss/atss_r18_fpn_8xb8-amp-lsj-200e_coco.py",
    "mmdet/autoassign/autoassign_r50-caffe_fpn_1x_coco.py",
    "mmdet/boxinst/boxinst_r50_fpn_ms-90k_coco.py",
    "mmdet/cascade_rpn/cascade-rpn_fast-rcnn_r50-caffe_fpn_1x_coco.py",
    "mmdet/centernet/centernet_r18_8xb16-crop512-140e_coco.py",
    "mmdet/condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py",
    "mmdet/deformable_detr/deformable-detr_r50_16xb2-50e_coco.py",
    "mmdet/detectors/cascade-rcnn_r50-rfp_1x_coco.py",
    "mmdet/detr/detr_r18_8xb2-500e_coco.py",
    "mmdet/dyhead/atss_r50_fpn_dyhead_1x_coco.py",
    "mmdet/efficientnet/retinanet_effb3_fpn_8xb4-crop896-1x_coco.py",
    "mmdet/fast_rcnn/fast-rcnn_r50-caffe_fpn_1x_coco.py",
    "mmdet/fcos/fcos_r18_fpn_gn-head-center-normbbox-centeronreg-giou_8xb8-amp-lsj-200e_coco.py",
    "mmdet/foveabox/fovea_r50_fpn_4xb4-1x_coco.py",
    "mmdet/fpg/faster-rcnn_r50_fpg_crop640-50e_coco.py",
    "mmdet/fsaf/fsaf_r50_fpn_1x_coco.py",
    "mmdet/guided_anchoring/ga-fast-rcnn_r50-caffe_fpn_1x_coco.py",
    "mmdet/hrnet/fcos_hrnetv2p-w18-gn-head_4xb4-1x_coco.py",
    "mmdet/libra_rcnn/libra-fast-rcnn_r50_fpn_1x_coco.py",
    "mmdet/mask_rcnn/mask-rcnn_r18_fpn_8xb8-amp-lsj-200e_coco.py",
    "mmdet/pvt/retinanet_pvt-t_fpn_1x_coco.py",
    "mmdet/regnet/retinanet_regnetx-800MF_fpn_1x_coco.py",
    "mmdet/reppoints/reppoints-moment_r50_fpn_1x_coco.py",
    "mmdet/resnest/faster-rcnn_s50_fpn_syncbn-backbone+head_ms-range-1x_coco.py",
    "mmdet/retinanet/retinanet_r18_fpn_1x_coco.py",
    "mmdet/rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py",
    "mmdet/sabl/sabl-retinanet_r50_fpn_1x_coco.py",
    "mmdet/solo/solo_r18_fpn_8xb8-lsj-200e_coco.py",
    "mmdet/ssd/ssd300_coco.py",
    "mmdet/tood/tood_r50_fpn_1x_coco.py",
    "mmdet/tridentnet/tridentnet_r50-caffe_1x_coco.py",
    "mmdet/vfnet/vfnet_r50_fpn_1x_coco.py",
    "mmdet/yolact/yolact_r50_1xb8-55e_coco.py",
    "mmdet/yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py",
    "mmdet/yolox/yolox_tiny_8xb8-300e_coco.py",
    "mmseg/bisenetv1/bisenetv1_r18-d32-in1k-pre_4xb4-160k_cityscapes-1024x1024.py",
    "mmseg/bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024.py",
    "mmseg/cgnet/cgnet_fcn_4xb4-60k_cityscapes-680x680.py",
    "mmseg/ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024.py",
    "mmseg/emanet/emanet_r101-d8_4xb2-80k_cityscapes-512x1024.py",
    "mmseg/encnet/encnet_r50-d8_4xb2-40k_cityscapes-512x1024.py",
    "mmseg/erfnet/erfnet_fcn_4xb4-160k_cityscapes-512x1024.py",
    "mmseg/fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py",
    "mmseg/hrnet/fcn_hr18s_4xb2-160k_cityscapes-512x1024.py",
    "mmseg/icnet/icnet_r18-d8-in1k-pre_4xb2-160k_cityscapes-832x832.py",
    "mmseg/knet/knet-s3_r50-d8_fcn_8xb2-adamw-80k_ade20k-512x512.py",
    "mmseg/mobilenet_v2/mobilenet-v2-d8_fcn_4xb2-80k_cityscapes-512x1024.py",
    "mmseg/mobilenet_v3/mobilenet-v3-d8-s_lraspp_4xb4-320k_cityscapes-512x1024.py",
    "mmseg/pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py",
    "mmseg/point_rend/pointrend_r50_4xb2-80k_cityscapes-512x1024.py",
    "mmseg/segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py",
    "mmseg/segnext/segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512.py",
    "mmseg/stdc/stdc1_in1k-pre_4xb12-80k_cityscapes-512x1024.py",
    "mmseg/swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py",
    "mmseg/unet/unet-s5-d16_fcn_4xb4-40k_drive-64x64.py",
)


#: what the unchanged model does not do either, in some version
NOT_RUN = {
    "mmdet/ssd/ssd300_coco.py": {"predict": "AttributeError: 'SSDHead' object has no attribute 'loss_cls'"},
}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    out = tmp_path_factory.mktemp("coverage")
    report = run.coverage(out, SAMPLE, workers=2)
    assert json.loads((out / "coverage.json").read_text()) == report
    assert "| mmdet/retinanet | 1 | 1 | 0 | 0 | 0 | 0 | 1 | 1 |" in (out / "coverage.md").read_text()
    return report


def test_the_sample_is_what_the_packages_ship(report):
    assert set(report["configs"]) == set(SAMPLE)
    assert len({configs.family(name) for name in SAMPLE}) >= 40


@pytest.mark.parametrize("name", SAMPLE)
def test_config(name, report):
    """Every activation is an ACON of the right width or stays for a reason, ReLU weights load, gradients flow."""
    result = report["models"][report["configs"][name]["model"]]
    assert (result["status"], result["problems"]) == ("converted", {})
    assert result["converted"] >= result["sites"] > 0
    not_run = {step: error.partition(" (")[0] for step, error in result["not_run"].items()}
    assert not_run.items() <= NOT_RUN.get(name, {}).items()
    assert [*result["passes"], *not_run] == ["loss", "predict"]
    assert result["not_reached"] == 0


def test_the_summary_counts(report):
    mmdet, mmseg = table.summary(report).splitlines()
    count = sum(name.startswith("mmdet") for name in SAMPLE)
    assert mmdet == f"mmdet: {count} configs ({count} distinct models): {count} converted"
    assert mmseg.endswith(f"{len(SAMPLE) - count} converted")
    assert table.failures(report) == []


def test_finished_models_stay(report, tmp_path, monkeypatch):
    """Started again, only what is missing is checked, or what failed if asked to."""
    name = "mmseg/erfnet/erfnet_fcn_4xb4-160k_cityscapes-512x1024.py"
    key = report["configs"][name]["model"]
    log = tmp_path / "models.jsonl"
    for status, retry, seconds in (("converted", False, -1), ("failed", False, -1), ("failed", True, 0)):
        stored = {**report["models"][key], "status": status, "seconds": -1}
        log.write_text(json.dumps(stored) + "\n")
        again = run.coverage(tmp_path, [name], workers=1, retry=retry)["models"][key]
        assert min(again["seconds"], 0) == seconds
    assert len(log.read_text().splitlines()) == 2


def test_a_model_that_kills_its_process_is_an_entry_and_the_others_go_on(monkeypatch):
    monkeypatch.setattr(run, "_MODELS_PER_PROCESS", 2)
    names = ["a", "dies", "b", "c", "d"]
    results = {
        each["config"]: each for each in run._results([(name, name, {}) for name in names], 1, coverage_models.job)
    }
    assert results.keys() == set(names)
    assert {name for name, each in results.items() if each["status"] == "failed"} == {"dies"}
    assert results["dies"]["problems"] == {"cannot be checked": ["the process died"]}


@pytest.fixture
def backbones():
    from mmseg.registry import MODELS

    for cls in coverage_models.BACKBONES:
        MODELS.register_module(module=cls)
    yield
    for cls in coverage_models.BACKBONES:
        MODELS.module_dict.pop(cls.__name__)


def segmentor(backbone, **head):
    head = dict(type="FCNHead", in_channels=4, channels=4, num_convs=0, num_classes=2, concat_input=False) | head
    return dict(type="EncoderDecoder", backbone=dict(type=backbone), decode_head=head, test_cfg=dict(mode="whole"))


@pytest.mark.parametrize(
    ("backbone", "kind", "problem"),
    [
        ("Silent", "left over", "backbone.F.relu(self.norm(self.conv(x))) ("),
        ("Unknown", "cannot be switched", "backbone.relu: helpers.coverage_models.Unknown calls it in a way"),
        ("TwoChannelCounts", "wrong channels", "ValueError: AconC at Sequential.1 has 4 channels"),
        ("Detached", "without gradient", "backbone.layers.1"),
        ("Dead", "never called", "backbone.layers.1"),
    ],
)
def test_check_finds(backbones, backbone, kind, problem):
    model = segmentor(backbone)
    if backbone == "Silent":  # something else to convert, or there is nothing to ask for
        model = segmentor(backbone, num_convs=1)
    if backbone == "TwoChannelCounts":
        model["decode_head"].update(in_channels=8, channels=8)
    result = check.check(model, "mmseg", dict(type="AconC"))
    assert result["status"] == "failed"
    assert result["problems"][kind][0].startswith(problem)


def test_what_learns_nothing_in_the_unchanged_model_is_told_apart(backbones):
    result = check.check(segmentor("Unused"), "mmseg", dict(type="AconC"))
    assert (result["status"], result["unused"]) == ("converted", ["backbone.branch.1"])


def test_check_of_a_model_without_activations(backbones):
    result = check.check(segmentor("Pure"), "mmseg", dict(type="AconC"))
    assert result["status"] == "none"
    assert result["error"] == "act_cfg on EncoderDecoder, which has no activations: leave it out there"
    hidden = check.check(segmentor("Silent"), "mmseg", dict(type="AconC"))
    assert hidden["status"] == "failed"
    assert hidden["problems"].keys() == {"activations, but none was found"}


def test_check_of_what_its_own_package_cannot_build():
    result = check.check(segmentor("NoSuchBackbone"), "mmseg", dict(type="AconC"))
    assert result["status"] == "unbuildable"
    assert result["error"].startswith("KeyError: 'EncoderDecoder: ") or "NoSuchBackbone" in result["error"]


def test_what_does_not_fail_for_acon_is_told_apart(backbones):
    result = check.check(segmentor("Detached", in_channels=5, channels=5), "mmseg", dict(type="AconC"))
    assert result["passes"] == {}
    assert all(error.startswith("RuntimeError: Given groups=1") for error in result["not_run"].values())


def test_build_times_are_of_the_backbone_and_the_heads_alone():
    """...whose activations they count: 17 in a ResNet-18, 8 in a RetinaHead. (The figures depend on the machine.)"""
    times = build_times("mmdet/retinanet/retinanet_r18_fpn_1x_coco.py", dict(type="AconC"), rounds=1)
    assert times.sites == 25
    assert min(times.unchanged, times.switched) > 0
    assert str(times).endswith(f"with 25 activations switched: {100 * times.extra:+.1f} %")


def test_equal_layers_share_a_check():
    model = segmentor("Pure", loss_decode=dict(type="CrossEntropyLoss"))
    other = segmentor("Pure", num_classes=19, loss_decode=dict(type="DiceLoss"))
    assert (
        configs.key_of(model, "mmseg/a.py")
        == configs.key_of(other, "mmseg/b.py")
        != configs.key_of(model, "mmdet/a.py")
    )
    assert configs.key_of(segmentor("Dead"), "mmseg/a.py") != configs.key_of(model, "mmseg/a.py")


@pytest.mark.parametrize("place", trace.NOT_THE_NETWORK)
def test_what_is_not_the_network_is_there(place):
    """A misspelt place would excuse nothing."""
    assert resolve_name(place) is not None


def test_a_teacher_that_pytorch_does_not_see_is_told_apart():
    name = "mmdet/ld/ld_r18-gflv1-r101_fpn_1x_coco.py"
    result = check.check(configs.model_of(name), "mmdet", dict(type="AconC"))
    assert (result["status"], result["problems"]) == ("converted", {})
    assert result["kept_calls"][trace.TEACHER] > 0


def test_a_sample_is_spread_over_the_families():
    names = ["a/x/1", "a/x/2", "a/y/1", "b/z/1", "b/z/2", "b/z/3"]
    assert configs.spread(names, 2) == ["a/x/1", "a/y/1"]
    assert configs.spread(names, 4) == ["a/x/1", "a/x/2", "a/y/1", "b/z/1"]
    assert configs.spread(names, 9) == names
