"""Checks of data sets: that there is something to learn from, and which file an error comes from."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from mmengine.dataset import BaseDataset

from ..errors import DataError, UserError
from .settings import settings


def innermost(dataset: Any) -> Iterator[Any]:
    """The data sets inside wrappers such as RepeatDataset and ConcatDataset."""
    inner = getattr(dataset, "datasets", None) or [each for each in [getattr(dataset, "dataset", None)] if each]
    for each in inner:
        yield from innermost(each)
    if not inner:
        yield dataset


def check_usable(dataset: Any) -> None:
    """Check that at least one picture has something to learn from. It stops at the first one.

    Raises:
        UserError: there is no picture, or none has an object of a known class with an area, or a label of a class.
    """
    parts = [part for part in innermost(dataset) if hasattr(part, "get_data_info")]
    if not parts or any(_is_usable(part, index) for part in parts for index in range(len(part))):
        return
    raise UserError(nothing_usable(parts, sum(map(len, parts))))


def nothing_usable(parts: list[Any], left: int) -> str:
    """The error of data sets without anything usable, of which ``left`` pictures are left after the filter."""
    infos: list[dict] = []
    with suppress(Exception):  # only for the message
        infos = [info for part in parts for info in part.load_data_list()]
    objects = sum(len(info.get("instances", ())) for info in infos)
    sources = (getattr(each, "ann_file", "") or getattr(each, "data_prefix", "") for each in parts)
    return (
        f"the data has nothing usable: of {len(infos)} pictures with {objects} objects, {left} pictures are left after "
        "the data set's filter, and none has an object of a known class with an area, or a label of a class. Check "
        f"the annotations and metainfo.classes of {', '.join(map(str, sources))}"
    )


def _is_usable(dataset: Any, index: int) -> bool:
    info = dataset.get_data_info(index)
    count = len(dataset.metainfo.get("classes") or ()) or math.inf
    if "instances" in info:
        return any(_has_area(each) and 0 <= each.get("bbox_label", 0) < count for each in info["instances"])
    if info.get("seg_map_path"):
        loaders = (each for each in dataset.pipeline.transforms if type(each).__name__ == "LoadAnnotations")
        if load := next(loaders, None):
            labels = _named(load, dataset, index, info)["gt_seg_map"]
            return bool(((labels >= 0) & (labels < count)).any())
    return True  # of a kind that this does not know


def _has_area(instance: dict) -> bool:
    if instance.get("ignore_flag") or "bbox" not in instance:
        return not instance.get("ignore_flag")
    left, top, right, bottom = instance["bbox"]
    return all(map(math.isfinite, instance["bbox"])) and right > left and bottom > top


@contextmanager
def named_files(model: dict) -> Iterator[None]:
    """A context in which errors of data pipelines name the file, in the processes of its data loaders too.

    A label that neither the data set nor the model (its config) knows becomes such an error.
    """
    values = [(key, value) for _, part in settings(model) for key, value in part.items() if type(value) is int]
    known = max((value for key, value in values if key == "num_classes"), default=0)
    ignored = {255, *(value for key, value in values if key == "ignore_index")}
    original = BaseDataset.prepare_data

    def prepare_data(dataset: BaseDataset, index: int) -> Any:
        data = _named(partial(original, dataset), dataset, index, index)
        labels = getattr(data.get("data_samples"), "gt_sem_seg", None) if isinstance(data, dict) else None
        classes = max(known, len(dataset.metainfo.get("classes") or ()))
        if labels is not None and classes:
            beyond = set(labels.data[labels.data >= classes].unique().tolist())
            if unknown := sorted(beyond - ignored - {getattr(dataset, "ignore_index", 255)}):
                raise DataError(
                    f"{_files(dataset, index)} has the labels {unknown[:5]}, but there are only {classes} classes"
                )
        return data

    BaseDataset.prepare_data = prepare_data
    try:
        yield
    finally:
        BaseDataset.prepare_data = original


def _named(function: Callable, dataset: Any, index: int, argument: Any) -> Any:
    try:
        return function(argument)
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"cannot load {_files(dataset, index)}: {type(error).__name__}: {error}") from error


def _files(dataset: Any, index: int) -> str:
    info = dataset.get_data_info(index)
    return " with ".join(str(info[key]) for key in ("img_path", "seg_map_path") if info.get(key)) or f"sample {index}"
