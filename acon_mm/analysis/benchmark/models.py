"""Whole models: a training step and an inference of detectors and segmentors, by activation.

Time is interleaved in one process. Memory is the peak of a process of its own that does one training step.
"""

import gc
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData, PixelData
from torch import nn

from ...convert import convert_activations
from .measure import interleaved, peak_bytes, ratios
from .peers import FORMS

#: where in the installed packages the models' configs are, and what makes an R18 of an R50
_CONFIGS = {
    "RetinaNet": ("mmdet", "retinanet/retinanet_r50_fpn_1x_coco.py"),
    "PSPNet": ("mmseg", "pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py"),
}
#: PSPNet pools to 1x1 in front of a batch norm, so one picture cannot be trained on
_LEAST_BATCH = {"RetinaNet": 1, "PSPNet": 2}
MODELS_TO_MEASURE = tuple(f"{name}-{backbone}" for backbone in ("R18", "R50") for name in _CONFIGS)

#: activation by name: form, act_sites of the backbone, and of the rest; None: as they are
VARIANTS: dict[str, tuple[type[nn.Module] | None, str | None, str | None]] = {
    "ReLU": (None, None, None),
    "ACON-C, paper's sites": (FORMS["AconC"]["ours"], "paper", None),
    "Meta-ACON-C, paper's sites": (FORMS["MetaAconC"]["ours"], "paper", None),
    "ACON-C everywhere": (FORMS["AconC"]["ours"], "all", "all"),
    "Meta-ACON-C everywhere": (FORMS["MetaAconC"]["ours"], "all", "all"),
    "authors' ACON-C, paper's sites": (FORMS["AconC"]["authors"], "paper", None),
    "authors' Meta-ACON-C, paper's sites": (FORMS["MetaAconC"]["authors"], "paper", None),
    "authors' ACON-C everywhere": (FORMS["AconC"]["authors"], "all", "all"),
    "authors' Meta-ACON-C everywhere": (FORMS["MetaAconC"]["authors"], "all", "all"),
}
PEER = "ReLU"


@dataclass
class ModelCase:
    """One line of the table: a model in training or inference."""

    model: str
    batch: int
    size: int
    threads: int
    passes: str
    #: time over that with ReLU, by variant
    ratio: dict[str, float]
    #: seconds with ReLU, the best of all rounds
    seconds: float
    #: peak bytes over ReLU's, by variant; of training alone
    memory: dict[str, float]


def measure(
    names: Sequence[str],
    variants: Sequence[str],
    batch: int,
    size: int,
    threads: Sequence[int],
    device: torch.device,
    seconds: float,
    memory: bool,
) -> Iterator[ModelCase]:
    """The cases of all models, one by one.

    Args:
        names: of :data:`MODELS_TO_MEASURE`.
        variants: of :data:`VARIANTS`; they are in memory together. ReLU is always there.
        batch, size: pictures and their height and width; PSPNet gets at least two.
        seconds: to measure each.
        memory: whether to measure that as well, in processes of their own.
    """
    variants = [PEER, *(variant for variant in variants if variant != PEER)]
    for name, batch in ((name, max(batch, _LEAST_BATCH[name.partition("-")[0]])) for name in names):
        peaks = _peaks(name, variants, batch, size, device) if memory else {}
        for count in threads:
            torch.set_num_threads(count)
            models = {variant: build(name, variant, device) for variant in variants}
            for passes, run in (("training step", training_step), ("inference", inference)):
                calls = {variant: run(model, batch, size, device) for variant, model in models.items()}
                times = interleaved(calls, seconds, device)
                yield ModelCase(
                    model=name,
                    batch=batch,
                    size=size,
                    threads=count,
                    passes=passes,
                    ratio=ratios(times, PEER),
                    seconds=min(times[PEER]),
                    memory={key: peak / peaks[PEER] for key, peak in peaks.items()} if run is training_step else {},
                )


def build(name: str, variant: str, device: torch.device) -> nn.Module:
    """A model of :data:`MODELS_TO_MEASURE` with the activations of a variant, without pretrained weights."""
    family, _, backbone = name.partition("-")
    package, path = _CONFIGS[family]
    cfg = Config.fromfile(_shipped(package, path))
    init_default_scope(package)
    model = cfg.model
    model.backbone.init_cfg = model.pretrained = None
    if package == "mmdet":
        model.pop("pretrained")
    if backbone == "R18":
        model.backbone.depth = 18
        if package == "mmdet":
            model.neck.in_channels = [64, 128, 256, 512]
        else:
            model.decode_head.in_channels, model.auxiliary_head.in_channels = 512, 256
    model.data_preprocessor.pop("size", None)
    _without_sync(model)
    torch.manual_seed(0)
    built = MODELS.build(model)
    form, in_backbone, elsewhere = VARIANTS[variant]
    if form is not None:
        parts = {"backbone": in_backbone, "neck": elsewhere, "bbox_head": elsewhere, "decode_head": elsewhere}
        for part, sites in parts.items():
            module = getattr(built, part, None)
            if sites is not None and module is not None and _has_activations(module):
                convert_activations(module, dict(type=form, init="relu"), sites)
    return built.to(device)


def training_step(model: nn.Module, batch: int, size: int, device: torch.device) -> Callable[[], object]:
    """Loss, backward and a step of SGD, on random pictures with a few boxes, or one label everywhere."""
    pictures = _pictures(batch, size, device)
    samples = [_sample(model, size, device) for _ in range(batch)]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-6, momentum=0.9)

    def run() -> None:
        model.train()
        losses, _ = model.parse_losses(model.loss(pictures, samples))
        losses.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def inference(model: nn.Module, batch: int, size: int, device: torch.device) -> Callable[[], object]:
    """The network without the search for boxes or the argmax of classes."""
    pictures = _pictures(batch, size, device)

    def run() -> None:
        model.eval()
        with torch.no_grad():
            model._forward(pictures)

    return run


def _sample(model: nn.Module, size: int, device: torch.device):
    shape = dict(img_shape=(size, size), ori_shape=(size, size), pad_shape=(size, size), batch_input_shape=(size, size))
    if hasattr(model, "decode_head"):
        from mmseg.structures import SegDataSample

        labels = torch.zeros(1, size, size, dtype=torch.long, device=device)
        return SegDataSample(metainfo=shape, gt_sem_seg=PixelData(data=labels))
    from mmdet.structures import DetDataSample

    corners = torch.tensor([[0.1, 0.1, 0.3, 0.4], [0.4, 0.2, 0.9, 0.8], [0.05, 0.6, 0.25, 0.7]], device=device)
    boxes = InstanceData(bboxes=corners * size, labels=torch.tensor([1, 2, 3], device=device))
    return DetDataSample(metainfo=shape, gt_instances=boxes)


def _pictures(batch: int, size: int, device: torch.device) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)


def _has_activations(module: nn.Module) -> bool:
    return any(isinstance(child, nn.ReLU) for child in module.modules())


def _shipped(package: str, path: str) -> str:
    return str(Path(__import__(package).__file__).parent / ".mim" / "configs" / path)


def _without_sync(cfg) -> None:
    if isinstance(cfg, dict):
        if cfg.get("type") == "SyncBN":
            cfg["type"] = "BN"
        for value in cfg.values():
            _without_sync(value)
    elif isinstance(cfg, (list, tuple)):
        for value in cfg:
            _without_sync(value)


def _peaks(name: str, variants: Sequence[str], batch: int, size: int, device: torch.device) -> dict[str, float]:
    context = multiprocessing.get_context("spawn")
    peaks = {}
    for variant in variants:
        with context.Pool(1) as pool:
            peaks[variant] = pool.apply(_peak, (name, variant, batch, size, str(device)))
    return peaks


def _peak(name: str, variant: str, batch: int, size: int, device_name: str) -> int:
    """Bytes that a training step needs at most beyond the model's own."""
    device = torch.device(device_name)
    model = build(name, variant, device)
    training_step(model, batch, 64, device)()  # what libraries need once
    step = training_step(model, batch, size, device)
    gc.collect()
    return peak_bytes(step, device)
