"""Pictures of a test data set with the truth above and a model's predictions below, as mm's visualizers draw them."""

from __future__ import annotations

import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, VISUALIZERS, init_default_scope
from mmengine.runner import load_checkpoint
from mmengine.structures import InstanceData

from ..errors import UserError

#: pixels: a narrower picture is enlarged; between two pictures
_WIDTH, _GAP = 320, 10


def draw(cfg: Config, checkpoint: str, num: int, score_thr: float) -> np.ndarray:
    """Draw ``num`` pictures that lie evenly spaced in the test dataset of a config: ``(height, width, 3)`` in RGB.

    Args:
        score_thr: boxes with a lower score are left out.

    Raises:
        UserError: the dataset has fewer pictures, or a segmentor's test pipeline loads no label maps.
    """
    init_default_scope(cfg.default_scope)
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    if not 1 <= num <= len(dataset):
        raise UserError(f"--num must be between 1 and the {len(dataset)} pictures of the test dataset, got {num}")
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    load_checkpoint(model, checkpoint, map_location="cpu")
    model.to(get_device()).eval()
    detects = cfg.default_scope == "mmdet"
    kind = "DetLocalVisualizer" if detects else "SegLocalVisualizer"
    visualizer = VISUALIZERS.build({"type": kind, "name": "predictions"})
    visualizer.dataset_meta = dataset.metainfo
    limit = {"pred_score_thr": score_thr} if detects else {}
    drawn: list[list[np.ndarray]] = [[], []]
    for index in (i * len(dataset) // num for i in range(num)):
        with torch.no_grad():
            (sample,) = model.test_step(pseudo_collate([dataset[index]]))
        if detects:  # the pipeline may have resized or dropped the truth, and masks would hide the pictures
            objects = [each for each in dataset.get_data_info(index)["instances"] if not each.get("ignore_flag")]
            boxes = torch.tensor([each["bbox"] for each in objects]).reshape(-1, 4)
            labels = torch.tensor([each["bbox_label"] for each in objects], dtype=torch.long)
            sample.gt_instances = InstanceData(bboxes=boxes, labels=labels)
            sample.pred_instances.pop("masks", None)
        elif "gt_sem_seg" not in sample:
            raise UserError("the test pipeline has no LoadAnnotations: add it before PackSegInputs")
        picture = mmcv.imread(sample.img_path, channel_order="rgb")
        larger = -(-_WIDTH // picture.shape[1])
        for of_truth, row in zip((True, False), drawn):
            visualizer.add_datasample("", picture, sample, draw_gt=of_truth, draw_pred=not of_truth, **limit)
            row.append(mmcv.imrescale(visualizer.get_image(), float(larger), interpolation="lanczos"))
    shape = (_GAP + max(len(each) for each in drawn[0]), _GAP + max(each.shape[1] for each in drawn[0]))
    return np.vstack(
        [np.hstack([mmcv.impad(each, shape=shape, pad_val=(255, 255, 255)) for each in row]) for row in drawn]
    )
