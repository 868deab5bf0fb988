"""The models on the embedded digits, through the tools: two iterations and a test."""

from pathlib import Path

import pytest
import torch

from acon_mm.checkpoints import load_checkpoint
from helpers.tiny_runs import run, test, train

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SAMPLE = dict(num_train=8, num_val=4)
CONFIGS = {
    "retinanet": "detection/retinanet_r18-metaaconc_fpn_6e_digits.py",
    "mask-rcnn": "detection/mask-rcnn_r18-aconc_fpn_6e_digits.py",
    "pspnet": "segmentation/pspnet_r18-d16-metaaconc_1xb8-300_digits-160x160.py",
    "deeplabv3": "segmentation/deeplabv3_r18-d16-aconc_1xb8-300_digits-160x160.py",
    "deeplabv3plus": "segmentation/deeplabv3plus_r18-d16-metaaconc_1xb8-300_digits-160x160.py",
    "fpn": "segmentation/fpn_r18-d16-aconc_1xb16-1800_digits-80x80.py",
}
METRICS = {
    "retinanet": {"coco/bbox_mAP"},
    "mask-rcnn": {"coco/bbox_mAP", "coco/segm_mAP"},
    **{model: {"aAcc", "mIoU", "mAcc"} for model in ("pspnet", "deeplabv3", "deeplabv3plus", "fpn")},
}


def config_of(model: str) -> Path:
    return ROOT / "configs" / CONFIGS[model]


def options(model: str, iterations: int) -> list[str]:
    """Few pictures, and one validation at the end."""
    by = "max_epochs" if model in ("retinanet", "mask-rcnn") else "max_iters"
    length = iterations // 2 if by == "max_epochs" else iterations  # an epoch has 8 pictures in batches of 4
    loaders = [f"{loader}_dataloader" for loader in ("train", "val", "test")]
    sample = [f"{loader}.dataset.sample.{key}={value}" for loader in loaders for key, value in SAMPLE.items()]
    sizes = [f"{loader}.batch_size=4" for loader in loaders]
    saved = f"default_hooks.checkpoint.interval={length}"
    # Without a threshold, as an untrained RetinaNet finds nothing above its own.
    anything = ["model.test_cfg.score_thr=0.0"] if model == "retinanet" else []
    return [*sample, *sizes, f"train_cfg.{by}={length}", f"train_cfg.val_interval={length}", saved, *anything]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A directory to run in. The configs look for data/digits in it and make the data there on first use."""
    return tmp_path_factory.mktemp("digits")


@pytest.fixture(autouse=True)
def run_there(place, monkeypatch):
    monkeypatch.chdir(place)


@pytest.mark.parametrize("model", CONFIGS)
def test_two_iterations_and_a_test(tmp_path, model):
    """Every ACON's parameters move, and the checkpoint can be tested."""
    run(train, config_of(model), tmp_path, options=options(model, 2))
    checkpoint = (tmp_path / "last_checkpoint").read_text()
    shown = tmp_path / "shown"
    metrics = run(test, config_of(model), tmp_path, checkpoint, "--show-dir", str(shown), options=options(model, 2))
    assert METRICS[model] <= metrics.keys()
    assert sum(1 for _ in shown.rglob("*.png")) == SAMPLE["num_val"]
    weights = load_checkpoint(checkpoint)["state_dict"]
    slopes = {key: value for key, value in weights.items() if key.endswith((".p1", ".p2"))}
    sites = 12 if model == "fpn" else 16  # it has three stages
    assert len(slopes) == 2 * sites
    # Before the last norm of a block, which starts at zero, nothing learns in the first iteration.
    assert all(value.isfinite().all() for value in weights.values())
    assert sum(not torch.equal(value, value.round()) for value in slopes.values()) >= sites
