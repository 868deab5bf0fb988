"""The COCO and Cityscapes configs run, with a few pictures in the directories that they name.

Each does one training iteration and a whole pass over val, in this process or with the tools of mmdet and mmseg. Only
sizes, numbers of workers and the source of pretrained weights are changed.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image

from acon_mm.checkpoints import load_checkpoint
from acon_mm.compat import strict_zip

pytestmark = pytest.mark.slow

CONFIGS = Path(__file__).parents[2] / "configs"
PHOTOGRAPHS = {"person": skimage.data.astronaut, "cup": skimage.data.coffee, "cat": skimage.data.chelsea}
CITIES = {"train": "aachen", "val": "frankfurt"}
# (trainId, id) in Cityscapes
SKY, ROAD, CAR, UNLABELLED = (10, 23), (0, 7), (13, 26), (255, 0)

BOTH = {
    f"{split}_dataloader.{key}": value
    for split in ("train", "val", "test")
    for key, value in {"num_workers": 0, "persistent_workers": False}.items()
}
# No pretrained weights. Without them, a residual branch would end in a factor of 0, which no gradient passes.
BOTH |= {"model.backbone.init_cfg": None, "model.backbone.zero_init_residual": False}
COCO = {
    **BOTH,
    "train_dataloader.dataset.pipeline.2.scale": (96, 64),
    "val_dataloader.dataset.pipeline.1.scale": (96, 64),
    "test_dataloader.dataset.pipeline.1.scale": (96, 64),
    "train_cfg.max_epochs": 1,
}
CITYSCAPES = {
    **BOTH,
    "model.pretrained": None,
    "train_dataloader.dataset.pipeline.2.scale": (128, 64),
    "train_dataloader.dataset.pipeline.3.crop_size": (64, 128),
    "val_dataloader.dataset.pipeline.1.scale": (128, 64),
    "test_dataloader.dataset.pipeline.1.scale": (128, 64),
    "model.data_preprocessor.size": (64, 128),
    "train_cfg.max_iters": 1,
    "train_cfg.val_interval": 1,
    "default_hooks.checkpoint.interval": 1,
}
# The scores of an untrained detector are low.
RETINANET = {**COCO, "model.test_cfg.score_thr": 0.0, "model.test_cfg.max_per_img": 10}
MASK_RCNN = {**COCO, "model.test_cfg.rcnn.score_thr": 0.0, "model.test_cfg.rcnn.max_per_img": 10}


def photograph(name: str, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(PHOTOGRAPHS[name]()).resize(size)


def make_coco(root: Path) -> None:
    """Two pictures to train and two for val, one object each."""
    classes = CocoDataset.METAINFO["classes"]
    (root / "annotations").mkdir(parents=True)
    for split, names in {"train2017": ["person", "cat"], "val2017": ["cup", "cat"]}.items():
        (root / split).mkdir()
        images, annotations = [], []
        for index, name in enumerate(names, start=1):
            file_name = f"{index:012d}.jpg"
            photograph(name, (96, 64)).save(root / split / file_name)
            images.append({"id": index, "file_name": file_name, "width": 96, "height": 64})
            x, y, w, h = 20, 5, 50, 55
            shape = {"bbox": [x, y, w, h], "area": w * h, "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]}
            place = {"id": index, "image_id": index, "category_id": classes.index(name) + 1, "iscrowd": 0}
            annotations.append(place | shape)
        categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def make_cityscapes(root: Path) -> None:
    """Two pictures for each split, with sky, a road, one car and a border without a label."""
    for split, city in CITIES.items():
        pictures, labels = root / "leftImg8bit" / split / city, root / "gtFine" / split / city
        pictures.mkdir(parents=True)
        labels.mkdir(parents=True)
        for index, name in enumerate(["cup", "cat"]):
            stem = f"{city}_{index:06d}_000019"
            photograph(name, (128, 64)).save(pictures / f"{stem}_leftImg8bit.png")
            for suffix, column in {"labelTrainIds": 0, "labelIds": 1, "instanceIds": 1}.items():
                values = np.full((64, 128), UNLABELLED[column], np.uint16)
                values[2:30, 2:-2], values[30:-2, 2:-2] = SKY[column], ROAD[column]
                values[25:45, 40:80] = 1000 * CAR[1] if suffix == "instanceIds" else CAR[column]
                if suffix != "instanceIds":
                    values = values.astype(np.uint8)
                Image.fromarray(values).save(labels / f"{stem}_gtFine_{suffix}.png")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A directory with `data/coco` and `data/cityscapes`."""
    root = tmp_path_factory.mktemp("configs")
    make_coco(root / "data/coco")
    make_cityscapes(root / "data/cityscapes")
    return root


def run(config: str, place: Path, work_dir: Path, monkeypatch, changes: dict) -> tuple[dict, dict[str, float]]:
    """Train and test in this process. Return the weights and the metrics."""
    monkeypatch.chdir(place)
    cfg = Config.fromfile(CONFIGS / config)
    # mmengine keeps loggers and visualizers by name. No checkpoint is needed.
    own = {"experiment_name": work_dir.name, "visualizer.name": work_dir.name, "default_hooks.checkpoint": None}
    cfg.merge_from_dict(changes | own | {"work_dir": str(work_dir), "randomness.seed": 0})
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner.model.state_dict(), runner.test()


def run_tools(package: str, config: str, place: Path, work_dir: Path, changes: dict) -> tuple[dict, dict[str, float]]:
    """Train and test with the tools of mmdet or mmseg. Return the weights and the metrics."""
    tools = Path(importlib.util.find_spec(package).origin).parent / ".mim/tools"
    options = [f"{key}={str(value).replace(' ', '')}" for key, value in (changes | {"randomness.seed": 0}).items()]

    def call(tool: str, *args: Path) -> None:
        command = [sys.executable, tools / tool, CONFIGS / config, *args, "--work-dir", work_dir / tool[:-3]]
        done = subprocess.run([*command, "--cfg-options", *options], cwd=place, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    call("train.py")
    checkpoint = Path((work_dir / "train/last_checkpoint").read_text())
    call("test.py", checkpoint)
    (metrics,) = (work_dir / "test").glob("*/*.json")
    return load_checkpoint(checkpoint)["state_dict"], json.loads(metrics.read_text())


def check_trained(weights: dict[str, torch.Tensor], frozen: str | None) -> None:
    """p2 starts at 0. Training has changed it in every ACON, except in the stage that the config freezes."""
    slopes = {name: value for name, value in weights.items() if name.endswith(".p2")}
    assert len(slopes) == 16  # one in every bottleneck of a ResNet-50
    assert all(torch.isfinite(value).all() for value in slopes.values())
    still = {name for name, value in slopes.items() if not value.any()}
    assert still == {name for name in slopes if frozen and name.startswith(frozen)}


def check_detection(metrics: dict[str, float], iou: tuple[str, ...]) -> None:
    for each in iou:
        assert 0 <= metrics[f"coco/{each}_mAP"] <= metrics[f"coco/{each}_mAP_50"] <= 1
    assert {name.split("_")[0] for name in metrics if name.startswith("coco/")} == {f"coco/{each}" for each in iou}


def check_segmentation(metrics: dict[str, float]) -> None:
    assert 0 <= metrics["mIoU"] <= metrics["mAcc"] <= 100 and 0 <= metrics["aAcc"] <= 100


def mean_iou(pairs: list[tuple[Path, Path]]) -> float:
    """In percent, from pairs of pictures of ids: the prediction and the truth."""
    found, truth = (np.concatenate([np.array(Image.open(path)) for path in paths]) for paths in strict_zip(*pairs))
    found, truth = found[truth != UNLABELLED[1]], truth[truth != UNLABELLED[1]]
    classes = np.union1d(found, truth)
    return 100 * np.mean([((found == c) & (truth == c)).sum() / ((found == c) | (truth == c)).sum() for c in classes])


def test_mask_rcnn(place, tmp_path, monkeypatch):
    config = "detection/mask-rcnn_r50-metaaconc_fpn_1x_coco.py"
    weights, metrics = run(config, place, tmp_path, monkeypatch, MASK_RCNN)
    check_trained(weights, frozen="backbone.layer1.")
    check_detection(metrics, ("bbox", "segm"))


def test_deeplabv3_by_the_metric_of_cityscapes(place, tmp_path, monkeypatch):
    official = dict(type="CityscapesMetric", output_dir=str(tmp_path / "found"), keep_results=True)
    both = [dict(type="IoUMetric", iou_metrics=["mIoU"]), official]
    config = "segmentation/deeplabv3_r50-d8-aconc_4xb2-40k_cityscapes-512x1024.py"
    weights, metrics = run(config, place, tmp_path, monkeypatch, CITYSCAPES | {"test_evaluator": both})
    check_trained(weights, frozen=None)
    check_segmentation(metrics)
    assert 0 <= metrics["averageScoreCategories"] <= 1 and 0 <= metrics["averageScoreInstCategories"] <= 1
    found = {path.name.removesuffix("_leftImg8bit.png"): path for path in (tmp_path / "found").iterdir()}
    truth = {path.name.removesuffix("_gtFine_labelIds.png"): path for path in place.rglob("val/*/*_labelIds.png")}
    assert found.keys() == truth.keys() and len(found) == 2
    assert metrics["mIoU"] == pytest.approx(mean_iou([(found[name], truth[name]) for name in found]), abs=0.01)


def test_deeplabv3plus(place, tmp_path, monkeypatch):
    config = "segmentation/deeplabv3plus_r50-d8-metaaconc_4xb2-40k_cityscapes-512x1024.py"
    weights, metrics = run(config, place, tmp_path, monkeypatch, CITYSCAPES)
    check_trained(weights, frozen=None)
    check_segmentation(metrics)


def test_retinanet_by_the_tools_of_mmdet(place, tmp_path):
    config = "detection/retinanet_r50-aconc_fpn_1x_coco.py"
    weights, metrics = run_tools("mmdet", config, place, tmp_path, RETINANET)
    check_trained(weights, frozen="backbone.layer1.")
    check_detection(metrics, ("bbox",))


def test_pspnet_by_the_tools_of_mmseg(place, tmp_path):
    config = "segmentation/pspnet_r50-d8-metaaconc_4xb2-40k_cityscapes-512x1024.py"
    weights, metrics = run_tools("mmseg", config, place, tmp_path, CITYSCAPES)
    check_trained(weights, frozen=None)
    check_segmentation(metrics)
