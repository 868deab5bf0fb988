"""Checks of data: that there is something to learn from, labels within the classes, which file an error comes from."""

import math
import re
from contextlib import suppress
from typing import Any

from mmengine.dataset import Compose
from mmengine.fileio import exists
from torch import nn

from ..errors import DataError, UserError

#: the files of a picture
_FILES = ("img_path", "seg_map_path")


def innermost(dataset: Any) -> list[Any]:
    """The data sets inside wrappers such as RepeatDataset, ConcatDataset and MultiImageMixDataset."""
    inner = getattr(dataset, "datasets", None) or [
        getattr(dataset, name) for name in ("dataset", "_dataset") if getattr(dataset, name, None)
    ]
    return [part for each in inner for part in innermost(each)] or [dataset]


class NamingPipeline(Compose):
    """The pipeline of a data set, whose errors name the file, in the processes of a data loader too."""

    def __call__(self, info: dict) -> Any:
        files = _files(info) or f"sample {info.get('sample_idx')}"
        try:
            return super().__call__(info)
        except DataError:  # of a pipeline in this one
            raise
        except Exception as error:
            raise DataError(f"cannot load {files}: {type(error).__name__}: {error}") from error


def name_files(dataset: Any) -> None:
    """Let the errors of a data set's pipelines name the file, and check that its first picture is there.

    Raises:
        UserError: it is not, or the data set is empty: mmengine's InfiniteSampler would look for a picture forever.
    """
    parts = innermost(dataset)
    if hasattr(dataset, "__len__") and not len(dataset):
        raise UserError(f"the {type(dataset).__name__} of {_sources(parts)} is empty")
    for part in parts:
        info = part.get_data_info(0) if hasattr(part, "get_data_info") else {}
        for path in filter(None, map(info.get, _FILES)):
            if not exists(path, backend_args=getattr(part, "backend_args", None)):
                raise UserError(
                    f"the data set is missing: {path} does not exist. Put the data there, or set data_root and "
                    f"data_prefix of its {type(part).__name__}"
                )
        if isinstance(getattr(part, "pipeline", None), Compose):
            part.pipeline = NamingPipeline(part.pipeline.transforms)


def _sources(parts: list[Any]) -> str:
    return ", ".join(str(getattr(part, "ann_file", "") or getattr(part, "data_prefix", "")) for part in parts)


def _files(info: dict) -> str:
    return " with ".join(str(info[key]) for key in _FILES if info.get(key))


def check_labels(batch: Any, model: nn.Module, dataset: Any) -> None:
    """Check the labels and boxes of a batch.

    Raises:
        DataError: a label is neither a class nor ignored, a label map is not as large as its picture, or a box is not
            finite.
    """
    found = ((name, vars(each).get("num_classes")) for name, each in model.named_modules())
    counts = [(name, count) for name, count in found if isinstance(count, int)]
    # For a box head, the label after its last class is the background. Other heads may know fewer classes.
    of_boxes = [count for name, count in counts if re.search(r"\bbbox_head(\.\d+)?$", name)]
    known = len((getattr(dataset, "metainfo", None) or {}).get("classes") or ())
    classes = min(of_boxes, default=max([known, *(count for _, count in counts)]))
    ignored = {255, *(vars(each).get("ignore_index") for each in model.modules())}
    samples = batch.get("data_samples") if isinstance(batch, dict) else None
    for sample, picture in zip(samples, batch.get("inputs", samples)) if classes and isinstance(samples, list) else ():
        files = _files(getattr(sample, "metainfo", {}))  # a list of samples, in test-time augmentation
        boxes = getattr(getattr(sample, "gt_instances", None), "bboxes", None)
        if boxes is not None and not getattr(boxes, "tensor", boxes).isfinite().all():
            raise DataError(f"{files} has a box that is not finite")
        for field, key in (("gt_sem_seg", "data"), ("gt_instances", "labels")):
            labels = getattr(getattr(sample, field, None), key, None)
            if labels is None:
                continue
            if unknown := set(labels[labels >= classes].unique().tolist()) - ignored:
                raise DataError(f"{files} has the labels {sorted(unknown)[:5]}, but there are only {classes} classes")
            size = tuple(labels.shape[-2:])
            if key == "data" and size not in (tuple(picture.shape[-2:]), tuple(sample.metainfo.get("ori_shape", ()))):
                raise DataError(
                    f"{files}: the label map has the size {size}, and the picture {tuple(picture.shape[-2:])}"
                )


def check_usable(dataset: Any) -> None:
    """Check that at least one picture has something to learn from. It stops at the first one.

    Raises:
        UserError: there is no picture, or none has an object of a known class with an area, or a label of a class.
    """
    parts = [part for part in innermost(dataset) if hasattr(part, "get_data_info")]
    if parts and not any(_is_usable(part, index) for part in parts for index in range(len(part))):
        raise UserError(nothing_usable(parts, sum(map(len, parts))))


def nothing_usable(parts: list[Any], left: int) -> str:
    """The error of data sets without anything usable, of which ``left`` pictures are left after the filter."""
    infos: list[dict] = []
    with suppress(Exception):  # only for the message
        infos = [info for part in parts for info in part.load_data_list()]
    objects = sum(len(info.get("instances", ())) for info in infos)
    return (
        f"the data has nothing usable: of {len(infos)} pictures with {objects} objects, {left} pictures are left after "
        "the data set's filter, and none has an object of a known class with an area, or a label of a class. Check "
        f"the annotations and metainfo.classes of {_sources(parts)}"
    )


def _is_usable(dataset: Any, index: int) -> bool:
    info = dataset.get_data_info(index)
    count = len(dataset.metainfo.get("classes") or ()) or math.inf
    if "instances" in info:
        return any(_is_object(each) and 0 <= each.get("bbox_label", 0) < count for each in info["instances"])
    steps = getattr(dataset.pipeline, "transforms", ())
    load = next((each for each in steps if type(each).__name__ == "LoadAnnotations"), None)
    if not info.get("seg_map_path") or load is None:
        return True  # of a kind that this does not know
    labels = NamingPipeline([load])(info)["gt_seg_map"]
    return bool(((labels >= 0) & (labels < count)).any())


def _is_object(instance: dict) -> bool:
    left, top, right, bottom = box = instance.get("bbox", (0, 0, 1, 1))
    return not instance.get("ignore_flag") and math.isfinite(sum(box)) and right > left and bottom > top
