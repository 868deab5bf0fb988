"""The embedded sample in mmdet and mmseg: registration, loading, and the real metrics through the real runner."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from PIL import Image

import acon_mm.datasets  # noqa: F401 (registers the datasets)
from acon_mm.compat import strict_zip
from helpers.digits_sample import SMALL


@pytest.mark.slow
@pytest.mark.parametrize("hidden", ["mmdet", "mmseg"])
def test_import_registers_with_what_is_installed(hidden):
    """In a process where one of the two is not found. The packages with the pictures are not imported yet."""
    other = "mmseg" if hidden == "mmdet" else "mmdet"
    script = f"""
import importlib.util, sys
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *args: None if name == {hidden!r} else find_spec(name, *args)
import {other}.datasets
before = set(sys.modules)
import acon_mm.datasets
print([name for name in ("mmdet", "mmseg") if name + ".datasets" in sys.modules])
print([name for name in ("sklearn", "skimage") if name in set(sys.modules) - before])
"""
    output = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert output.splitlines()[-2:] == [repr([other]), "[]"]


LOAD = {"type": "LoadImageFromFile"}


def detection(root, split, **kwargs):
    keys = ("img_id", "img_path", "ori_shape", "img_shape")
    return {
        "type": "DigitsDetDataset",
        "data_root": str(root),
        "ann_file": f"annotations/instances_{split}.json",
        "data_prefix": {"img": f"images/{split}/"},
        "sample": SMALL,
        "pipeline": [
            LOAD,
            {"type": "LoadAnnotations", "with_bbox": True, "with_mask": True},
            {"type": "PackDetInputs", "meta_keys": keys},
        ],
        **kwargs,
    }


def segmentation(root, split, **kwargs):
    return {
        "type": "DigitsSegDataset",
        "data_root": str(root),
        "data_prefix": {"img_path": f"images/{split}", "seg_map_path": f"labels/{split}"},
        "sample": SMALL,
        "pipeline": [LOAD, {"type": "LoadAnnotations"}, {"type": "PackSegInputs"}],
        **kwargs,
    }


def test_detection_dataset_through_the_registry(tmp_path):
    mmdet_registry = pytest.importorskip("mmdet.registry")
    with DefaultScope.overwrite_default_scope("mmdet"):
        dataset = mmdet_registry.DATASETS.build(detection(tmp_path / "digits", "train"))
    assert dataset.metainfo["classes"] == tuple("0123456789") and len(dataset.metainfo["palette"]) == 10
    assert len(dataset) == 4
    item = dataset[0]
    assert item["inputs"].shape == (3, 160, 160)
    truth = item["data_samples"].gt_instances
    assert truth.masks.masks.shape == (len(truth), 160, 160) and truth.bboxes.tensor.shape == (len(truth), 4)
    for mask, box in strict_zip(truth.masks.masks, truth.bboxes.tensor.int().tolist()):
        rows, columns = np.nonzero(mask)
        assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_segmentation_dataset_through_the_registry(tmp_path):
    mmseg_registry = pytest.importorskip("mmseg.registry")
    with DefaultScope.overwrite_default_scope("mmseg"):
        dataset = mmseg_registry.DATASETS.build(segmentation(tmp_path / "digits", "train"))
    assert dataset.metainfo["classes"] == ("background", *"0123456789") and len(dataset.metainfo["palette"]) == 11
    assert len(dataset) == 4
    item = dataset[3]
    assert item["inputs"].shape == (3, 160, 160)
    labels = item["data_samples"].gt_sem_seg.data
    with Image.open(tmp_path / "digits/labels/train/000003.png") as stored:
        assert np.array_equal(labels[0], np.array(stored))


class Oracle(BaseModel):
    """Predicts what is annotated."""

    def forward(self, inputs, data_samples=None, mode="tensor"):
        for sample in data_samples:
            if "gt_sem_seg" in sample:
                sample.pred_sem_seg = sample.gt_sem_seg
                continue
            truth = sample.gt_instances
            masks = truth.masks.to_tensor(bool, "cpu")
            scores = truth.labels.new_ones(len(truth)).float()
            sample.pred_instances = InstanceData(
                bboxes=truth.bboxes.tensor, labels=truth.labels, masks=masks, scores=scores
            )
        return data_samples


def validate(dataset, evaluator, scope, work_dir):
    runner = Runner(
        Oracle(),
        work_dir=str(work_dir),
        val_dataloader={
            "batch_size": 2,
            "dataset": dataset,
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "collate_fn": {"type": "pseudo_collate"},
        },
        val_cfg={},
        val_evaluator=evaluator,
        default_scope=scope,
        experiment_name=f"digits_{scope}",
    )
    return runner.val()


def test_perfect_predictions_are_perfect_to_coco(tmp_path):
    """The runner also makes the sample before CocoMetric opens its annotations."""
    pytest.importorskip("mmdet")
    root = tmp_path / "digits"
    evaluator = {
        "type": "CocoMetric",
        "ann_file": str(root / "annotations/instances_val.json"),
        "metric": ["bbox", "segm"],
    }
    metrics = validate(detection(root, "val", test_mode=True), evaluator, "mmdet", tmp_path / "work")
    assert metrics["coco/bbox_mAP"] == metrics["coco/segm_mAP"] == 1.0


def test_perfect_predictions_are_perfect_to_iou(tmp_path):
    pytest.importorskip("mmseg")
    dataset = segmentation(tmp_path / "digits", "val", test_mode=True)
    metrics = validate(dataset, {"type": "IoUMetric", "iou_metrics": ["mIoU"]}, "mmseg", tmp_path / "work")
    assert metrics["mIoU"] == 100.0
