"""A grid of pictures with the truth above and the predictions of a detector or a segmentor below.

:func:`predict` makes the examples, :func:`draw` a figure of them, :func:`save` a file.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike

import mmcv
import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from mmengine.config import Config
from mmengine.dataset import BaseDataset, pseudo_collate
from mmengine.device import get_device
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner import load_checkpoint
from mmengine.structures import InstanceData, PixelData
from PIL import Image

from ..compat import strict_zip
from ..errors import UserError
from ..files import replacing

Color = tuple[float, float, float]

_DPI = 100
#: sizes in pixels: width of a picture, space between pictures, height of text, width and height of a legend's entry
_CELL, _GAP, _TEXT, _ENTRY_WIDTH, _ENTRY_HEIGHT = 320, 10, 17, 180, 30


@dataclass
class Box:
    """A box with the corners x1, y1, x2, y2 in pixels."""

    corners: Sequence[float]
    label: str
    color: Color


@dataclass
class Annotations:
    """What is drawn over a picture: boxes, or a map of classes of the picture's height and width."""

    boxes: list[Box] = field(default_factory=list)
    label_map: np.ndarray | None = None


@dataclass
class Example:
    """A picture, (height, width, 3) in RGB, with its true and its predicted annotations."""

    picture: np.ndarray
    truth: Annotations
    prediction: Annotations


@dataclass
class Classes:
    """Names and colors of a dataset's classes."""

    names: Sequence[str]
    colors: Sequence[Color]


def predict(cfg: Config, checkpoint: str, num: int, score_thr: float) -> tuple[list[Example], Classes]:
    """Predict on ``num`` pictures that lie evenly spaced in the test dataset of a config.

    Args:
        score_thr: boxes with a lower score are left out.

    Raises:
        UserError: the dataset has fewer pictures, or a segmentor's test pipeline loads no label maps.
    """
    init_default_scope(cfg.default_scope)
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    if not 1 <= num <= len(dataset):
        raise UserError(f"--num must be between 1 and the {len(dataset)} pictures of the test dataset, got {num}")
    model = _load_model(cfg, checkpoint)
    classes = _classes(dataset)
    examples = []
    for index in (i * len(dataset) // num for i in range(num)):
        with torch.no_grad():
            (sample,) = model.test_step(pseudo_collate([dataset[index]]))
        picture = mmcv.imread(sample.img_path, channel_order="rgb")
        if cfg.default_scope == "mmdet":
            truth = _true_boxes(dataset.get_data_info(index)["instances"], classes)
            prediction = _predicted_boxes(sample.pred_instances, classes, score_thr)
        elif "gt_sem_seg" in sample:
            truth, prediction = (_label_map(each) for each in (sample.gt_sem_seg, sample.pred_sem_seg))
        else:
            raise UserError("the test pipeline has no LoadAnnotations: add it before PackSegInputs")
        examples.append(Example(picture, truth, prediction))
    return examples, classes


def draw(examples: Sequence[Example], classes: Classes) -> Figure:
    """The true annotations of all examples in the upper row, the predicted ones in the lower row."""
    height = round(_CELL * max(each.picture.shape[0] / each.picture.shape[1] for each in examples))
    left = 2 * _TEXT + _GAP
    total_width = left + len(examples) * (_CELL + _GAP)
    occurring = _occurring(examples, classes)
    per_row = total_width // _ENTRY_WIDTH
    legend = _ENTRY_HEIGHT * math.ceil(len(occurring) / per_row)
    total_height = _GAP + 2 * (height + _GAP) + legend
    figure = Figure(figsize=(total_width / _DPI, total_height / _DPI), dpi=_DPI)
    for row, name in enumerate(("truth", "prediction")):
        bottom = legend + _GAP + (1 - row) * (height + _GAP)
        figure.text(
            left / 2 / total_width,
            (bottom + height / 2) / total_height,
            name,
            rotation="vertical",
            ha="center",
            va="center",
            fontsize=_points(_TEXT + 3),
        )
        for column, example in enumerate(examples):
            x = left + column * (_CELL + _GAP)
            axes = figure.add_axes((x / total_width, bottom / total_height, _CELL / total_width, height / total_height))
            axes.set_axis_off()
            axes.imshow(example.picture)
            _draw_annotations(axes, getattr(example, name), classes)
    if occurring:
        figure.legend(
            handles=[Patch(color=classes.colors[label], label=classes.names[label]) for label in occurring],
            loc="lower center",
            ncols=min(per_row, len(occurring)),
            frameon=False,
            fontsize=_points(_TEXT),
        )
    return figure


def save(figure: Figure, path: str | PathLike) -> None:
    """Save a figure as a PNG of 256 colors, which takes a third of the space."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    picture = Image.open(buffer).convert("RGB")
    # The default method may change the colors of classes that cover little of the picture.
    with replacing(path) as file:
        picture.quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=2).save(file, format="PNG", optimize=True)


def _load_model(cfg: Config, checkpoint: str) -> BaseModel:
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    load_checkpoint(model, checkpoint, map_location="cpu")
    return model.to(get_device()).eval()


def _classes(dataset: BaseDataset) -> Classes:
    names, palette = dataset.metainfo["classes"], dataset.metainfo.get("palette")
    if isinstance(palette, (list, tuple)) and len(palette) >= len(names):
        return Classes(names, [tuple(value / 255 for value in color) for color in palette])
    return Classes(names, [colormaps["tab20"](i % 20)[:3] for i in range(len(names))])


def _true_boxes(instances: Sequence[dict], classes: Classes) -> Annotations:
    return Annotations(
        boxes=[
            Box(each["bbox"], classes.names[each["bbox_label"]], classes.colors[each["bbox_label"]])
            for each in instances
            if not each.get("ignore_flag")
        ]
    )


def _predicted_boxes(instances: InstanceData, classes: Classes, score_thr: float) -> Annotations:
    """Boxes in the order of their scores, so that the best are drawn over the others."""
    instances = instances[instances.scores >= score_thr].cpu()
    instances = instances[instances.scores.argsort()]
    found = strict_zip(instances.bboxes.tolist(), instances.labels.tolist(), instances.scores.tolist())
    return Annotations(
        boxes=[Box(box, f"{classes.names[i]}: {score:.2f}", classes.colors[i]) for box, i, score in found]
    )


def _label_map(labels: PixelData) -> Annotations:
    return Annotations(label_map=labels.data[0].cpu().numpy())


def _draw_annotations(axes: Axes, annotations: Annotations, classes: Classes) -> None:
    if annotations.label_map is not None:
        known = annotations.label_map < len(classes.names)  # 255 is ignored
        colors = np.asarray(classes.colors)[np.where(known, annotations.label_map, 0)]
        axes.imshow(np.dstack([colors, 0.6 * known]), interpolation="nearest")
    for box in annotations.boxes:
        x1, y1, x2, y2 = box.corners
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=box.color, linewidth=2.5))
    for box in annotations.boxes:
        _draw_label(axes, box)


def _draw_label(axes: Axes, box: Box) -> None:
    """A label above the upper left corner of a box, moved so far that it lies inside of the picture."""
    label = axes.text(
        box.corners[0],
        box.corners[1],
        box.label,
        color=_readable_on(box.color),
        fontsize=_points(_TEXT),
        fontweight="bold",
        va="bottom",
        bbox=dict(facecolor=box.color, edgecolor="none", pad=1.5),
    )
    extent, inside = label.get_window_extent(), axes.bbox.padded(-3)
    dx = max(inside.x0 - extent.x0, 0) + min(inside.x1 - extent.x1, 0)
    dy = max(inside.y0 - extent.y0, 0) + min(inside.y1 - extent.y1, 0)
    x, y = axes.transData.transform(label.get_position())
    label.set_position(tuple(axes.transData.inverted().transform((x + dx, y + dy))))


def _occurring(examples: Sequence[Example], classes: Classes) -> list[int]:
    """The classes in the label maps."""
    maps = [each.label_map for example in examples for each in (example.truth, example.prediction)]
    labels = {int(label) for each in maps if each is not None for label in np.unique(each)}
    return sorted(label for label in labels if label < len(classes.names))


def _readable_on(color: Color) -> str:
    red, green, blue = color
    return "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"


def _points(pixels: float) -> float:
    return pixels * 72 / _DPI
