"""The memory that a training step takes, with a config's ACONs and with ReLU."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from mmengine.config import Config
from mmengine.model import BaseModel, revert_sync_batchnorm
from torch import nn
from torch.nn.modules.conv import _ConvNd

from ...errors import UserError
from ...layers import Acon
from .. import shipped_configs
from ..build import build, no_output
from ..config_coverage.passes import short
from .layers import KINDS, OTHER, Layer, kept_layers
from .step import TrainingStep
from .twins import with_relu

RELU = "ReLU"


@dataclass(frozen=True)
class Memory:
    """What a training step of a model takes, in bytes.

    Attributes:
        model: its class.
        had_sync_bn: whether its SyncBN layers were replaced by BN, as in a run of one process.
        batch: the number of pictures in a step.
        layers: what is kept for backward, by layer.
        modules: the names of the modules, in the order of their calls.
        standing: weights, buffers and the optimizer's state.
        kept: all that is kept for backward in a step with ``batch`` pictures, and in one with twice as many.
        peaks: the most that is in use at a time in these two steps, with ``standing`` and the pictures.
    """

    model: str
    had_sync_bn: bool
    batch: int
    layers: list[Layer]
    modules: list[str]
    standing: int
    kept: tuple[int, int]
    peaks: tuple[int, int]

    @property
    def by_kind(self) -> dict[str, int]:
        """What is kept, by kind. What no module made or got is ``other``, too."""
        sizes = {kind: sum(each.bytes for each in self.layers if each.kind == kind) for kind in KINDS}
        return sizes | {OTHER: self.kept[0] - sum(size for kind, size in sizes.items() if kind != OTHER)}

    @property
    def per_picture(self) -> float:
        """What one more picture takes, where there are many."""
        return max(slope for _, slope in self._lines())

    def pictures(self, limit: float) -> int:
        """The number of pictures that fit into ``limit`` bytes."""
        return max(0, min(int((limit - start) / slope) for start, slope in self._lines() if slope > 0))

    def _lines(self) -> Iterator[tuple[float, float]]:
        """Lines below which the peak does not stay: what it takes without pictures, and for each.

        With few pictures, the peak may be at the gradients of large weights, and then grow slowly. With many, it is at
        least what is kept.
        """
        for small, large in (self.peaks, (self.standing + self.kept[0], self.standing + self.kept[1])):
            yield 2 * small - large, (large - small) / self.batch


def measure(cfg: Config, shape: tuple[int, int], batch: int, device: torch.device) -> Mapping[str, Memory]:
    """Measure the model of a config and its twin with ReLU. They have random weights, and zeros in the heads.

    Args:
        cfg: with ``model``, ``optim_wrapper`` and ``default_scope``.
        shape: height and width of the pictures.
        batch: how many pictures.
        device: a CPU or a GPU of CUDA.

    Returns:
        the twin as ``'ReLU'``, then the model of the config by the types of its ACONs.

    Raises:
        UserError: the model has no ACON, cannot be built, or does not run.
    """
    model_cfg = shipped_configs.without_weights(cfg.model.to_dict())
    relu_cfg = with_relu(model_cfg)
    with no_output():
        acons, theirs = _built(model_cfg, cfg.default_scope)
        label = _label(acons)
        with_acons = _measure(acons, cfg, shape, batch, device, theirs)
        del acons
        twin, _ = _built(relu_cfg, cfg.default_scope)
        if left := next((name for name, module in twin.named_modules() if isinstance(module, Acon)), None):
            raise UserError(
                f"{left} has no twin with ReLU, because its ACON is not in the config: let its class take act_cfg"
            )
        return {RELU: _measure(twin, cfg, shape, batch, device, theirs), label: with_acons}


def _built(model_cfg: dict, package: str) -> tuple[BaseModel, bool]:
    """The model, and whether it had SyncBN."""
    try:
        model = build(model_cfg, package)
    except Exception as error:
        raise UserError(f"the model cannot be built: {short(error)}") from error
    # By name, since mmcv's SyncBN is not a subclass of PyTorch's.
    found = any("SyncBatchNorm" in type(module).__name__ for module in model.modules())
    _predict_nothing(model)
    return revert_sync_batchnorm(model), found


def _predict_nothing(model: BaseModel) -> None:
    """Set the weights of the heads to zero: both twins then propose the same boxes, and train with as many of them."""
    for name, part in model.named_children():
        for module in part.modules() if name not in ("backbone", "neck") else ():
            if isinstance(module, (_ConvNd, nn.Linear)):
                for parameter in module.parameters(recurse=False):
                    nn.init.zeros_(parameter)


def _label(model: BaseModel) -> str:
    acons = [module for module in model.modules() if isinstance(module, Acon)]
    least = all(each.memory == "least" for each in acons)
    return " and ".join(sorted({type(each).__name__ for each in acons})) + (", memory='least'" if least else "")


def _measure(
    model: BaseModel, cfg: Config, shape: tuple[int, int], batch: int, device: torch.device, had_sync_bn: bool
) -> Memory:
    step = TrainingStep(model.to(device), cfg, shape)
    step.measured(batch)  # the optimizer makes its state, and libraries allocate some memory once
    gc.collect()
    standing = step.standing()
    taken = step.measured(batch)
    more = step.measured(2 * batch)
    data = step.data(batch)
    layers, modules = kept_layers(model, lambda: step.loss(*data), own=data[:1])
    return Memory(
        model=type(model).__name__,
        had_sync_bn=had_sync_bn,
        batch=batch,
        layers=layers,
        modules=modules,
        standing=standing,
        kept=(taken.kept, more.kept),
        peaks=(standing + taken.peak, standing + more.peak),
    )
