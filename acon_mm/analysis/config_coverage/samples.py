"""Small batches for any model of mmdet or mmseg, with all annotations that a model may use.

Imports nothing of acon_mm: a test runs models with it where acon_mm is not imported.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Union

import numpy as np
import torch
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from torch import Tensor, nn

#: height and width of pictures, or one number for both
Size = Union[int, tuple[int, int]]


def segmentation_batch(size: Size, count: int = 2, channels: int = 3) -> tuple[Tensor, list]:
    """Random pictures and label maps of the classes 0 and 1. With ``channels=6`` each is a pair of pictures."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    height, width = shape = _shape(size)
    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(count):
        labels = torch.zeros(1, height, width, dtype=torch.long)
        labels[:, height // 4 : height // 2] = 1
        edges = torch.zeros(1, height, width, dtype=torch.long)
        edges[:, height // 4] = 1
        meta = dict(img_shape=shape, ori_shape=shape, pad_shape=shape, padding_size=[0] * 4)
        samples.append(
            SegDataSample(metainfo=meta, gt_sem_seg=PixelData(data=labels), gt_edge_map=PixelData(data=edges))
        )
    return torch.randn(count, channels, height, width, generator=generator), samples


def detection_batch(
    size: Size, count: int = 2, extra: dict | None = None, masks: bool = True, proposals: bool = False
) -> tuple[Tensor, list]:
    """Random pictures with two boxes of class 0 each, masks and a label map.

    Args:
        size: of the pictures.
        count: the number of pictures.
        extra: more metadata of each picture.
        masks: whether there are any.
        proposals: add proposals, for detectors without an RPN.
    """
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData, PixelData

    height, width = shape = _shape(size)
    generator = torch.Generator().manual_seed(0)
    samples = []
    for index in range(count):
        sample = DetDataSample(
            metainfo=dict(
                img_id=index,
                img_shape=shape,
                ori_shape=shape,
                pad_shape=shape,
                batch_input_shape=shape,
                scale_factor=(1.0, 1.0),
                flip=False,
                flip_direction=None,
                border=[0, 0, 0, 0],
                org_width=width,  # for CLRNet, which the maintained fork adds
                org_height=height,
                **(extra or {}),
            ),
            gt_instances=_instances(shape),
            ignored_instances=InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)),
            gt_sem_seg=PixelData(sem_seg=torch.zeros(1, height, width, dtype=torch.long)),
        )
        if not masks:
            del sample.gt_instances.masks
        if proposals:
            sample.proposals = InstanceData(bboxes=_boxes(shape), scores=torch.ones(2))
        samples.append(sample)
    return torch.randn(count, 3, height, width, generator=generator), samples


def track_batch(size: Size, count: int = 2) -> tuple[Tensor, list]:
    """One video: a key frame and a reference frame with the same two objects."""
    from mmdet.structures import TrackDataSample

    pictures, images = detection_batch(size, count, extra=dict(frame_id=0, video_id=0, video_length=count))
    for frame, image in enumerate(images):
        image.set_metainfo(dict(frame_id=frame, ori_video_length=count))
        image.gt_instances.instances_ids = torch.arange(2)
    track = TrackDataSample(video_data_samples=images, metainfo=dict(key_frames_inds=[0], ref_frames_inds=[1]))
    return pictures[None], [track]


def reid_batch(size: Size, count: int = 4) -> tuple[Tensor, list]:
    """Pictures of two identities. Persons are twice as high as wide, and the pooling of some networks is as well."""
    from mmdet.structures import ReIDDataSample

    height, width = (size, size // 2) if isinstance(size, int) else size
    generator = torch.Generator().manual_seed(0)
    samples = [ReIDDataSample().set_gt_label(index // 2) for index in range(count)]
    return torch.randn(count, 3, height, width, generator=generator), samples


def _shape(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _boxes(shape: tuple[int, int]) -> Tensor:
    height, width = shape
    return torch.tensor([[0.1, 0.1, 0.6, 0.7], [0.3, 0.2, 0.95, 0.9]]) * torch.tensor([width, height] * 2)


def _instances(shape: tuple[int, int]) -> Any:
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    height, width = shape
    boxes = _boxes(shape)
    masks = np.zeros((2, height, width), np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist()):
        mask[top:bottom, left:right] = 1
    return InstanceData(
        bboxes=boxes,
        labels=torch.zeros(2, dtype=torch.long),
        masks=BitmapMasks(masks, height, width),
        pairwise_masks=torch.ones(2, 8, height // 4, width // 4),  # BoxInst's preprocessor makes them from colors
    )


class Pass(NamedTuple):
    """A way to run a model.

    Attributes:
        name: for reports.
        train: whether the model is in training mode, and the result is a loss.
        step: is called with the model and the size of the pictures.
    """

    name: str
    train: bool
    step: Callable[[nn.Module, Size], Any]


def passes(model: BaseModel) -> list[Pass]:
    """The ways to run a model; none for a class that is not known."""
    bases = _bases(model)
    if "SemiBaseDetector" in bases:
        return _passes(_detection(model.student), "student") + _passes(_detection(model.teacher), "teacher")[1:]
    if "BaseMOTModel" in bases:
        detector = getattr(model, "detector", None)
        detection = _passes(_detection(detector), "detector") if detector is not None else []
        if hasattr(model, "track_head"):
            return _passes(track_batch)[:1] + detection[1:]
        return detection + (_passes(reid_batch, "reid") if getattr(model, "reid", None) is not None else [])
    batch = training_batch(model)
    return _passes(batch) if batch else []


def training_batch(model: BaseModel) -> Callable[..., tuple[Tensor, list]] | None:
    """The function that makes pictures and their samples for a segmentor or a detector, out of ``size`` and ``count``.

    None for other models, as those that learn from videos, or from pictures without labels.
    """
    bases = _bases(model)
    if "BaseSegmentor" in bases:
        first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
        return partial(segmentation_batch, channels=first.in_channels)
    if "BaseReID" in bases:
        return reid_batch
    return _detection(model) if "BaseDetector" in bases and "SemiBaseDetector" not in bases else None


def _bases(model: BaseModel) -> set[str]:
    return {base.__name__ for base in type(model).__mro__}


def _detection(detector: BaseModel) -> Callable:
    # RTMDet for boxes uses masks if there are any, but cannot read BitmapMasks.
    masks = type(detector).__name__ != "RTMDet" or "Ins" in type(detector.bbox_head).__name__
    return partial(detection_batch, masks=masks, proposals=not getattr(detector, "with_rpn", True))


def _passes(batch: Callable, part: str = "") -> list[Pass]:
    """Loss and prediction of a model, or of a part of it."""

    def loss(model: nn.Module, size: Size) -> Any:
        set_progress()
        return model.get_submodule(part)(*batch(size), mode="loss")

    def predict(model: nn.Module, size: Size) -> Any:
        return model.get_submodule(part)(*batch(size, count=1), mode="predict")  # guided anchoring takes no more

    suffix = f" ({part})" if part else ""
    return [Pass(f"loss{suffix}", True, loss), Pass(f"predict{suffix}", False, predict)]


def set_progress() -> None:
    """Tell the losses that read it, as TOOD's and BoxInst's, that the training begins."""
    MessageHub.get_current_instance().update_info_dict(dict(epoch=0, iter=0))


def total(losses: Any) -> Tensor:
    """The sum of all tensors that require gradients, in lists and dictionaries too."""
    if isinstance(losses, Tensor):
        return losses.sum() if losses.requires_grad else losses.new_zeros(())
    if isinstance(losses, dict):
        losses = list(losses.values())
    if isinstance(losses, (list, tuple)):
        return sum((total(each) for each in losses), torch.zeros(()))
    return torch.zeros(())
