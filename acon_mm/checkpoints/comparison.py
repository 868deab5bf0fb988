"""Comparing a state dict with a model, and loading it: both module by module, as PyTorch loads.

A module may translate its entries while it loads them: an old name into a new one, the authors' ``(1, C, 1, 1)`` into
``(C,)``. Only the module knows its rules. So :func:`compare` lets every module load into a copy of itself, and compares
the names and shapes that result. The model changes in :func:`load`, which is called when everything fits.
"""

import copy
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

from mmengine.model import is_model_wrapper
from torch import Tensor, nn
from torch.nn.modules.module import _IncompatibleKeys
from torch.nn.parameter import is_lazy
from torch.overrides import is_tensor_like

#: counts the batches of a batch norm; old files do not have it
_COUNTER = "num_batches_tracked"


class WrongShape(NamedTuple):
    """The two shapes of a tensor that does not fit."""

    checkpoint: tuple[int, ...]
    model: tuple[int, ...]


@dataclass
class Comparison:
    """How a state dict and a model differ. The counters of batch norms are left out.

    Attributes:
        shapes: the model's parameters and persistent buffers, by name.
        missing: names of the model that the state dict does not have.
        unexpected: entries of the state dict that the model does not have, as its modules have translated them.
        wrong_shape: tensors that have another shape in the model.
        errors: what a module itself finds wrong.
    """

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: dict[str, Any] = field(default_factory=dict)
    wrong_shape: dict[str, WrongShape] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    @property
    def absent(self) -> set[str]:
        """Names of the model that get nothing from the state dict."""
        return {*self.missing, *self.wrong_shape}

    @property
    def loaded(self) -> list[str]:
        """Names of the model that get their values from the state dict."""
        absent = self.absent
        return [key for key in self.shapes if key not in absent]


def compare(model: nn.Module, state_dict: Mapping[str, Any], metadata: Mapping[str, Mapping]) -> Comparison:
    """Compare names and shapes; the model stays as it is.

    Args:
        model: a module; wrappers (DDP) in it are looked through.
        state_dict: names and tensors.
        metadata: the ``_metadata`` of the state dict, which has the versions of the modules by name.
    """
    found = Comparison()
    _compare(model, OrderedDict(state_dict), "", metadata, found)
    found.missing = [key for key in found.missing if _COUNTER not in key]
    return found


def _compare(module: nn.Module, entries: OrderedDict, prefix: str, metadata: Mapping, found: Comparison) -> None:
    module = unwrapped(module)
    local_metadata = metadata.get(prefix[:-1], {})
    before = OrderedDict(entries)
    unexpected: list[str] = []
    errors: list[str] = []
    trial = _copy_of(module)
    trial._load_from_state_dict(entries, prefix, local_metadata, True, found.missing, unexpected, errors)
    # `entries` are translated now.
    wrong_shape = _wrong_shapes(trial, entries, prefix)
    if wrong_shape:
        # PyTorch has reported an error for each of them. Without these entries, only the module's own errors remain.
        rest = OrderedDict((key, value) for key, value in before.items() if key not in wrong_shape)
        errors = []
        _copy_of(module)._load_from_state_dict(rest, prefix, local_metadata, True, [], [], errors)
    found.shapes |= {prefix + name: _shape(tensor) for name, tensor in _own_tensors(module) if name != _COUNTER}
    found.unexpected |= {key: entries.get(key) for key in unexpected}
    found.wrong_shape |= wrong_shape
    found.errors += errors
    for child, child_entries, child_prefix in _children(module, entries, prefix):
        _compare(child, child_entries, child_prefix, metadata, found)


def load(model: nn.Module, state_dict: Mapping[str, Any], metadata: Mapping[str, Mapping]) -> None:
    """Load what :func:`compare` has found to fit.

    Raises:
        RuntimeError: a module reports an error that it did not report to :func:`compare`. The model is loaded in part.
    """
    errors: list[str] = []
    _load(model, OrderedDict(state_dict), "", metadata, _IncompatibleKeys([], []), errors)
    if errors:
        raise RuntimeError(f"{type(model).__name__} was loaded in part, since a module failed: {'; '.join(errors)}")


def _load(
    module: nn.Module,
    entries: OrderedDict,
    prefix: str,
    metadata: Mapping,
    incompatible: _IncompatibleKeys,
    errors: list[str],
) -> None:
    module = unwrapped(module)
    module._load_from_state_dict(entries, prefix, metadata.get(prefix[:-1], {}), True, *incompatible, errors)
    for child, child_entries, child_prefix in _children(module, entries, prefix):
        _load(child, child_entries, child_prefix, metadata, incompatible, errors)
    for hook in module._load_state_dict_post_hooks.values():
        hook(module, incompatible)


def unwrapped(module: Any) -> nn.Module:
    """The model inside a wrapper such as DistributedDataParallel; another module is returned as it is."""
    return cast(nn.Module, module.module) if is_model_wrapper(module) else module


def _children(module: nn.Module, entries: OrderedDict, prefix: str) -> Iterator[tuple[nn.Module, OrderedDict, str]]:
    for name, child in module._modules.items():  # not named_children(), which yields a shared module once
        if child is not None:
            start = f"{prefix}{name}."
            yield child, OrderedDict((key, value) for key, value in entries.items() if key.startswith(start)), start


def _copy_of(module: nn.Module) -> nn.Module:
    """The module with copies of its own parameters and buffers. Its children are the same modules."""
    if any(is_lazy(tensor) for _, tensor in _own_tensors(module)):
        return module  # a lazy module (nn.LazyLinear) has no values that could get lost
    twin = object.__new__(type(module))
    twin.__dict__.update(module.__dict__)
    twin.__dict__["_parameters"] = copy.deepcopy(module._parameters)
    twin.__dict__["_buffers"] = {
        name: buffer if buffer is None else buffer.detach().clone() for name, buffer in module._buffers.items()
    }
    return twin


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters and persistent buffers of a module, without those of its children."""
    for name, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is not None and name not in module._non_persistent_buffers_set:
            yield name, tensor


def _wrong_shapes(module: nn.Module, entries: Mapping[str, Any], prefix: str) -> dict[str, WrongShape]:
    wrong = {}
    for name, tensor in _own_tensors(module):
        value = entries.get(prefix + name)
        if value is None or not is_tensor_like(value) or is_lazy(tensor):
            continue
        there, here = tuple(value.shape), _shape(tensor)
        if there != here and not (there == (1,) and here == ()):  # PyTorch < 0.4 had no tensors without dimensions
            wrong[prefix + name] = WrongShape(there, here)
    return wrong


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return () if is_lazy(tensor) else tuple(tensor.shape)
