"""The time of a training step and an inference of detectors and segmentors, by activation, measured in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice, product
from operator import itemgetter
from typing import NamedTuple

import torch
from mmengine.model import BaseModel, revert_sync_batchnorm
from torch import nn

from ...convert import convert_activations
from .. import shipped_configs
from ..build import build as build_shipped
from ..config_coverage import samples
from .measure import interleaved, ratios
from .peers import FORMS

#: shipped configs of models with a ResNet-50
_CONFIGS = {
    "RetinaNet": "mmdet/retinanet/retinanet_r50_fpn_1x_coco.py",
    "FasterRCNN": "mmdet/faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py",
    "MaskRCNN": "mmdet/mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py",
    "PSPNet": "mmseg/pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py",
}
#: PSPNet pools to 1x1 before a batch norm, which cannot train with one picture
_MIN_BATCH = {"PSPNet": 2}
MODELS_TO_MEASURE = tuple(f"{name}-{backbone}" for backbone in ("R18", "R50") for name in _CONFIGS)


class Variant(NamedTuple):
    """The activations of a model.

    Attributes:
        act: the activation; None: as in the config.
        in_backbone, elsewhere: ``act_sites`` of the backbone, and of the neck and heads; None: not converted.
    """

    act: type[nn.Module] | None = None
    in_backbone: str | None = None
    elsewhere: str | None = None


VARIANTS = {
    "ReLU": Variant(),
    "ACON-C, paper's sites": Variant(FORMS["AconC"]["ours"], in_backbone="paper"),
    "Meta-ACON-C, paper's sites": Variant(FORMS["MetaAconC"]["ours"], in_backbone="paper"),
    "ACON-C everywhere": Variant(FORMS["AconC"]["ours"], in_backbone="all", elsewhere="all"),
    "Meta-ACON-C everywhere": Variant(FORMS["MetaAconC"]["ours"], in_backbone="all", elsewhere="all"),
    "authors' ACON-C, paper's sites": Variant(FORMS["AconC"]["authors"], in_backbone="paper"),
    "authors' Meta-ACON-C, paper's sites": Variant(FORMS["MetaAconC"]["authors"], in_backbone="paper"),
    "authors' ACON-C everywhere": Variant(FORMS["AconC"]["authors"], in_backbone="all", elsewhere="all"),
    "authors' Meta-ACON-C everywhere": Variant(FORMS["MetaAconC"]["authors"], in_backbone="all", elsewhere="all"),
}
REFERENCE = "ReLU"


@dataclass
class ModelCase:
    """One column of the table: a model in training or inference."""

    model: str
    batch: int
    size: int
    threads: int
    #: ``'training step'`` or ``'inference'``
    passes: str
    #: time over ReLU's, by variant
    ratio: dict[str, float]
    #: seconds with ReLU, the best of all rounds
    seconds: float


def measure(
    *,
    models: Sequence[str] = MODELS_TO_MEASURE,
    variants: Sequence[str] = tuple(VARIANTS),
    batch: int = 1,
    size: int = 512,
    threads: Sequence[int] = (1,),
    device: torch.device,
    seconds: float,
    done: int = 0,
) -> Iterator[ModelCase]:
    """Measure each model; each gives a case for training and one for inference.

    Args:
        models: of :data:`MODELS_TO_MEASURE`.
        variants: of :data:`VARIANTS`; all are in memory together. ReLU is always measured.
        batch: the number of pictures; PSPNet gets at least two.
        size: height and width of the pictures.
        seconds: to measure each case.
        done: how many cases to leave out at the start; a multiple of two.
    """
    variants = [REFERENCE, *(variant for variant in variants if variant != REFERENCE)]
    left = islice(product(models, threads), done // 2, None)
    for name, pairs in groupby(left, key=itemgetter(0)):
        count = max(batch, _MIN_BATCH.get(name.partition("-")[0], 1))
        for _, num_threads in pairs:
            torch.set_num_threads(num_threads)
            built = {variant: build(name, variant, device) for variant in variants}
            for passes, prepare in (("training step", training_step), ("inference", inference)):
                calls = {variant: prepare(model, count, size, device) for variant, model in built.items()}
                times = interleaved(calls, seconds=seconds, device=device)
                yield ModelCase(
                    model=name,
                    batch=count,
                    size=size,
                    threads=num_threads,
                    passes=passes,
                    ratio=ratios(times, REFERENCE),
                    seconds=min(times[REFERENCE]),
                )


def build(name: str, variant: str, device: torch.device) -> BaseModel:
    """A model of :data:`MODELS_TO_MEASURE` with the activations of a variant, without pretrained weights."""
    family, _, backbone = name.partition("-")
    package = _CONFIGS[family].partition("/")[0]
    cfg = shipped_configs.model_of(_CONFIGS[family])
    cfg["data_preprocessor"].pop("size", None)
    if backbone == "R18":
        cfg["backbone"]["depth"] = 18
        if package == "mmdet":
            cfg["neck"]["in_channels"] = [64, 128, 256, 512]
        else:
            cfg["decode_head"]["in_channels"], cfg["auxiliary_head"]["in_channels"] = 512, 256
    model = revert_sync_batchnorm(build_shipped(cfg, package))
    chosen = VARIANTS[variant]
    others = ("neck", "rpn_head", "bbox_head", "roi_head", "decode_head")
    sites = {"backbone": chosen.in_backbone, **dict.fromkeys(others, chosen.elsewhere)}
    for part, act_sites in sites.items():
        module = getattr(model, part, None)
        if act_sites and module and any(isinstance(child, nn.ReLU) for child in module.modules()):
            convert_activations(module, dict(type=chosen.act, init="relu"), act_sites)
    return model.to(device)


def training_step(model: BaseModel, batch: int, size: int, device: torch.device) -> Callable[[], object]:
    """A function that computes loss and gradients and does a step of SGD, on random pictures."""
    data = _data(model, batch, size, device)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-6, momentum=0.9)

    def run() -> None:
        model.train()
        losses, _ = model.parse_losses(model.loss(*data))
        losses.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def inference(model: BaseModel, batch: int, size: int, device: torch.device) -> Callable[[], object]:
    """A function that computes the output of the network, without what follows it (argmax, NMS of the boxes)."""
    data = _data(model, batch, size, device)

    def run() -> None:
        model.eval()
        with torch.no_grad():
            model._forward(*data)

    return run


def _data(model: BaseModel, batch: int, size: int, device: torch.device) -> tuple[torch.Tensor, list]:
    make = samples.training_batch(model)
    assert make is not None  # all of _CONFIGS learn from single pictures with labels
    pictures, made = make(size, count=batch)
    return pictures.to(device), [each.to(device) for each in made]
