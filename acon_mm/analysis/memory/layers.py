"""Which layers made what is still in memory after the loss."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from mmcv.cnn import is_norm
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_flatten

from ...convert.activations import ACTIVATIONS, GATES

CONV, NORM, ACT, SUM, OTHER = "convolution outputs", "norm outputs", "activation outputs", "residual sums", "other"
KINDS = (CONV, NORM, ACT, SUM, OTHER)


@dataclass(frozen=True)
class Layer:
    """What is kept of what a module made.

    Attributes:
        module: its name. A sum, or the result of another function, has that of the module that got it.
        kind: of :data:`KINDS`. What a layer changes in place, as ReLU does, still belongs to the layer before.
        bytes: those of all its calls.
    """

    module: str
    kind: str
    bytes: int


def kept_layers(model: nn.Module, compute: Callable[[], Any], own: Iterable[Tensor]) -> tuple[list[Layer], list[str]]:
    """What is kept as long as the result of ``compute`` is there. Also the names of the modules, as they are called.

    Forward hooks see each tensor that a module gets or makes. They remember its storage without keeping it. What no
    module gets or makes is not seen.

    Args:
        model: the model.
        compute: calls it, and returns its loss.
        own: tensors that do not count, such as the parameters.
    """
    with _watched(model, own) as watch:
        loss = compute()
    gc.collect()
    found: dict[tuple[str, str], int] = {}
    for storage, made in watch.made.items():
        if not storage.expired():
            found[made.module, made.kind] = found.get((made.module, made.kind), 0) + made.bytes
    del loss
    return [Layer(module, kind, size) for (module, kind), size in found.items()], list(watch.called)


@dataclass
class _Made:
    """A storage: who made it, and the number of changes in place when it was last seen."""

    module: str
    kind: str
    bytes: int
    changes: int


class _Watch:
    def __init__(self, device: torch.device, own: Iterable[Tensor]) -> None:
        self.made: dict[StorageWeakRef, _Made] = {}
        self.called: dict[str, None] = {}
        self._device = device
        self._own = {StorageWeakRef(each.untyped_storage()) for each in own}

    def before(self, name: str, module: nn.Module, args: tuple, kwargs: dict) -> None:
        self.called.setdefault(name)
        activates = isinstance(module, ACTIVATIONS)
        for storage, tensor in self._tensors((args, kwargs)):
            made = self.made.get(storage)
            if made is None:
                self._add(storage, tensor, name, SUM if activates else OTHER)
            elif made.changes != tensor._version:  # as by ``out += identity`` in a residual block
                made.changes = tensor._version
                if activates:
                    made.module, made.kind = name, SUM

    def after(self, name: str, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        for storage, tensor in self._tensors(output):
            made = self.made.get(storage)
            if made is None:
                self._add(storage, tensor, name, _kind(module))
            else:
                made.changes = tensor._version

    def _add(self, storage: StorageWeakRef, tensor: Tensor, name: str, kind: str) -> None:
        if storage not in self._own:
            self.made[storage] = _Made(name, kind, tensor.untyped_storage().nbytes(), tensor._version)

    def _tensors(self, values: Any) -> Iterator[tuple[StorageWeakRef, Tensor]]:
        for each in tree_flatten(values)[0]:
            if isinstance(each, Tensor) and each.device == self._device and each.layout is torch.strided:
                yield StorageWeakRef(each.untyped_storage()), each


@contextmanager
def _watched(model: nn.Module, own: Iterable[Tensor]) -> Iterator[_Watch]:
    watch = _Watch(next(model.parameters()).device, [*own, *model.parameters(), *model.buffers()])
    handles = []
    for name, module in model.named_modules():
        if name:
            handles.append(module.register_forward_pre_hook(partial(watch.before, name), with_kwargs=True))
            handles.append(module.register_forward_hook(partial(watch.after, name), with_kwargs=True))
    try:
        yield watch
    finally:
        for handle in handles:
            handle.remove()


def _kind(module: nn.Module) -> str:
    """The kind of what a module makes. A convolution of mmcv's own has a weight of four dimensions."""
    if is_norm(module):
        return NORM
    if isinstance(module, (*ACTIVATIONS, *GATES)):
        return ACT
    weight = getattr(module, "weight", None)
    is_conv = isinstance(module, (_ConvNd, nn.Linear)) or (isinstance(weight, Tensor) and weight.dim() >= 3)
    return CONV if is_conv else OTHER
