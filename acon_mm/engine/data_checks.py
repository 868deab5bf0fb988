"""Checks of data sets: that there is something to learn from, and which file an error comes from."""

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from torch import nn

from ..errors import DataError, UserError


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
    read, objects, left = 0, 0, sum(map(len, parts))
    with suppress(Exception):  # only for the message
        infos = [info for part in parts for info in part.load_data_list()]
        read, objects = len(infos), sum(len(info.get("instances", ())) for info in infos)
    raise UserError(
        f"the training data has nothing to learn from: of {read} pictures with {objects} objects, {left} pictures are "
        "left after the data set's filter, and none has an object of a known class with an area, or a label of a "
        f"class. Check the annotations and metainfo.classes of {', '.join(map(_source, parts))}"
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


def name_files_in_errors(dataset: Any, model: nn.Module) -> None:
    """Make the errors of data pipelines name the file. A label that the model does not know becomes such an error."""
    modules = list(model.modules())
    ignored = {255, *(each for each in (getattr(module, "ignore_index", None) for module in modules) if each)}
    most = max((each for each in (getattr(m, "num_classes", None) for m in modules) if type(each) is int), default=0)
    for part in innermost(dataset):
        if hasattr(part, "prepare_data") and "prepare_data" not in vars(part):
            part.prepare_data = partial(_prepare, part.prepare_data, part, ignored, most)


def _prepare(prepare: Callable, dataset: Any, ignored: set[int], most: int, index: int) -> Any:
    data = _named(prepare, dataset, index, index)
    labels = getattr(data.get("data_samples"), "gt_sem_seg", None) if isinstance(data, dict) else None
    classes = max(most, len(dataset.metainfo.get("classes") or ()))
    if labels is not None and classes:
        beyond = set(labels.data[labels.data >= classes].unique().tolist()) - ignored - {dataset.ignore_index}
        if beyond:
            raise DataError(
                f"{_files(dataset, index)} has the labels {sorted(beyond)[:5]}, but there are only {classes} classes"
            )
    return data


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


def _source(dataset: Any) -> str:
    return str(getattr(dataset, "ann_file", "") or getattr(dataset, "data_prefix", "") or type(dataset).__name__)
