"""The flags of `tools/train.py` and `tools/test.py`, in real runs."""

import pickle

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from acon_mm.checkpoints import load_checkpoint
from helpers.tiny_runs import PICTURES, differing, error_of, log_of, run, test, train, weights

NO_VAL = ("val_cfg=None", "val_dataloader=None", "val_evaluator=None")


def test_detector(configs, trained, tmp_path):
    out, shown = tmp_path / "found.pkl", tmp_path / "shown"
    args = [str(trained["detection"]), "--out", str(out), "--show-dir", str(shown)]
    metrics = run(test, configs["detection"], tmp_path / "work", *args)
    assert {"coco/bbox_mAP", "coco/segm_mAP"} <= metrics.keys() and 0 <= metrics["coco/bbox_mAP"] <= 1
    found = pickle.loads(out.read_bytes())
    assert [each["img_id"] for each in found] == list(range(PICTURES))
    assert all(len(each["pred_instances"]["bboxes"]) == 5 for each in found)
    assert sorted(path.name for path in shown.iterdir()) == [f"{index}.jpg" for index in range(PICTURES)]


@pytest.mark.slow
@pytest.mark.parametrize(("kept", "warned"), [(1, 1), (2, 0), (-1, 0)])
def test_a_single_checkpoint_is_warned_of(kept, warned, configs, tmp_path):
    options = (f"default_hooks.checkpoint.max_keep_ckpts={kept}", "train_cfg.max_iters=1")
    run(train, configs["segmentation"], tmp_path, options=(*options, *NO_VAL))
    log = log_of(tmp_path)
    assert log.count("WARNING - max_keep_ckpts=1: the only checkpoint is removed before the next is written") == warned


def test_segmentor(configs, trained, tmp_path):
    out, shown = tmp_path / "labels", tmp_path / "shown"
    args = [str(trained["segmentation"]), "--out", str(out), "--show-dir", str(shown)]
    metrics = run(test, configs["segmentation"], tmp_path / "work", *args)
    truth, predicted = (
        np.stack([np.asarray(Image.open(root / f"{index}.png")) for index in range(PICTURES)])
        for root in (configs["data"] / "labels", out)
    )
    ious = [np.sum((truth == k) & (predicted == k)) / np.sum((truth == k) | (predicted == k)) for k in range(3)]
    assert metrics["mIoU"] == pytest.approx(100 * np.mean(ious), abs=0.006)
    assert len(list(shown.rglob("*.png"))) == PICTURES


@pytest.mark.slow
def test_tta_of_a_detector_flips_by_default(configs, trained, tmp_path):
    # mmdet has no TTA for masks
    no_masks = ("model.roi_head.mask_head=None", "model.roi_head.mask_roi_extractor=None", "test_evaluator.metric=bbox")
    metrics = run(test, configs["detection"], tmp_path, str(trained["detection"]), "--tta", options=no_masks)
    assert "coco/bbox_mAP" in metrics
    cfg = Config.fromfile(tmp_path / "detection.py")
    assert (cfg.model.type, cfg.model.module.type) == ("DetTTAModel", "MaskRCNN")
    assert cfg.test_dataloader.dataset.pipeline[-1].type == "TestTimeAug"


@pytest.mark.slow
def test_tta_of_a_segmentor_is_in_its_config(configs, trained, tmp_path, capsys):
    args = [configs["segmentation"], tmp_path, str(trained["segmentation"]), "--tta"]
    assert error_of(capsys, run, test, *args) == "--tta needs tta_model and tta_pipeline in the config of a segmentor"
    config = tmp_path / "tta.py"
    config.write_text(
        f"_base_ = {str(configs['segmentation'])!r}\n"
        'tta_model = dict(type="SegTTAModel")\n'
        'flips = [dict(type="RandomFlip", prob=p) for p in (0.0, 1.0)]\n'
        'last = [[dict(type="LoadAnnotations")], [dict(type="PackSegInputs")]]\n'
        'tta_pipeline = [dict(type="LoadImageFromFile"), dict(type="TestTimeAug", transforms=[flips, *last])]\n'
    )
    assert "mIoU" in run(test, config, *args[1:])
    assert Config.fromfile(tmp_path / "tta.py").model.type == "SegTTAModel"


@pytest.mark.slow
def test_resumed_training_equals_uninterrupted(configs, tmp_path):
    """Iteration, optimizer state, schedule and order of the data continue where they stopped."""
    acon, four = ("model.backbone.act_cfg.type=MetaAconC",), ("train_cfg.max_iters=4",)
    run(train, configs["segmentation"], tmp_path / "whole", options=acon + four)
    run(train, configs["segmentation"], tmp_path / "first", options=acon)
    half = tmp_path / "first/iter_2.pth"
    run(train, configs["segmentation"], tmp_path / "rest", "--resume", str(half), options=acon + four)
    whole, rest = (load_checkpoint(tmp_path / name / "iter_4.pth") for name in ("whole", "rest"))
    assert rest["meta"]["iter"] == 4 and "resumed epoch: 0, iter: 2" in log_of(tmp_path / "rest")
    assert not differing(whole["state_dict"], rest["state_dict"])
    assert "backbone.layer1.0.act1.p2" in differing(weights(half), rest["state_dict"])
    assert whole["param_schedulers"] == rest["param_schedulers"]


@pytest.mark.slow
def test_resume_without_a_value(configs, trained, tmp_path):
    """It resumes from the latest checkpoint. Without one, as after an early crash, it starts as the config says."""
    start = trained["segmentation"]
    run(train, configs["segmentation"], tmp_path, "--resume", options=(f"load_from={start}",))
    assert f"Load checkpoint from {start}" in log_of(tmp_path) and "resumed" not in log_of(tmp_path)
    run(train, configs["segmentation"], tmp_path, "--resume", options=(f"load_from={start}", "train_cfg.max_iters=4"))
    assert "resumed epoch: 0, iter: 2" in log_of(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA takes AmpOptimWrapper as it is")
@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_amp_on_cpu_is_bfloat16(configs, trained, tmp_path, task):
    run(train, configs[task], tmp_path, "--amp", options=NO_VAL)
    assert "Mixed precision in bfloat16" in log_of(tmp_path)
    mixed = weights(tmp_path / "iter_2.pth")
    assert {each.dtype for each in mixed.values()} == {torch.float32, torch.int64}
    assert all(each.isfinite().all() for each in mixed.values())
    assert differing(mixed, weights(trained[task]))


@pytest.mark.slow
def test_auto_scale_lr(configs, tmp_path):
    """The batch size is 2, and the learning rate was chosen for 8."""
    run(train, configs["detection"], tmp_path, "--auto-scale-lr", options=(*NO_VAL, "param_scheduler=None"))
    optimizer = load_checkpoint(tmp_path / "iter_2.pth")["optimizer"]
    assert {group["lr"] for group in optimizer["param_groups"]} == {0.01 * 2 / 8}
