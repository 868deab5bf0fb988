"""Conversion of a ReLU network's weights for the same network with ACON, which computes nearly the same at first."""

import copy
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.runner.checkpoint import get_state_dict
from torch import Tensor, nn

from ..compat import strict_zip
from ..version import __version__
from .acon_types import acon_type_from_names, acons_of, names_below
from .loading import load_state_dict
from .reading import CheckpointError
from .report import LoadReport


class Converted(NamedTuple):
    """The result of :func:`convert_relu`.

    Attributes:
        checkpoint: the tensors of the ReLU network, with the same names, and ACON's parameters.
        report: which tensors came from the ReLU network.
        difference: how much the features on a random picture differ from the ReLU network's, relative to these.
    """

    checkpoint: dict
    report: LoadReport
    difference: float


def start_as_relu(model: nn.Module) -> None:
    """Set every ACON of a model to the initial values of ``init='relu'``.

    Raises:
        ValueError: an ACON has no such values (ACON-FReLU; Meta-ACON by pixel or layer).
    """
    for acon in acons_of(model).values():
        acon.reinitialize("relu")


def convert_relu(model: nn.Module, checkpoint: Mapping, allow: Iterable[str] = ()) -> Converted:
    """Load a ReLU network's weights into a model whose ACONs then start close to ReLU.

    Args:
        model: built from the config that will use the result. It is changed.
        checkpoint: of the whole model, or of its backbone. A classifier is dropped.
        allow: what may differ, as for :func:`acon_mm.checkpoints.load_state_dict`.

    Raises:
        CheckpointError: the checkpoint has ACONs already, or does not fit.
        ValueError: the part of the model that gets the weights has no ACON, or one that cannot start as ReLU.
    """
    state = _without_module(checkpoint.get("state_dict", checkpoint))
    part = _part_for(model, state)
    acons = acons_of(part)
    if not acons:
        raise ValueError(f"{type(part).__name__} has no ACON: give it act_cfg in the config")
    if found := [place for place in acons if acon_type_from_names(names_below(state, place))]:
        raise CheckpointError(
            f"it has ACONs already ({found[0]}, ...), so it is not of a ReLU network: use it without conversion"
        )
    start_as_relu(part)
    report = load_state_dict(part, state, allow=allow)
    difference = relu_difference(part)
    if not difference < 1:  # not `>=`, which is false for NaN
        raise CheckpointError(
            f"with its weights, the features of ACON and ReLU differ by {difference:.1e} relative: is it damaged?"
        )
    meta = {"acon_mm_version": __version__}
    if isinstance(checkpoint.get("meta"), Mapping) and "dataset_meta" in checkpoint["meta"]:
        meta["dataset_meta"] = checkpoint["meta"]["dataset_meta"]
    return Converted({"meta": meta, "state_dict": get_state_dict(part)}, report, difference)


def _without_module(state: Mapping[str, Tensor]) -> OrderedDict:
    renamed: Any = OrderedDict((key.removeprefix("module."), value) for key, value in state.items())
    renamed._metadata = getattr(state, "_metadata", {})
    return renamed


def _part_for(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """The model or its direct child that shares the most names with the state dict."""
    candidates = [model, *model.children()]
    return max(candidates, key=lambda part: len(state.keys() & part.state_dict().keys()))


def relu_twin(model: nn.Module) -> nn.Module:
    """A copy of a model in which every ACON is a ReLU."""
    twin = copy.deepcopy(model)
    for place in acons_of(twin):
        parent, _, leaf = place.rpartition(".")
        setattr(twin.get_submodule(parent), leaf, nn.ReLU())
    return twin


def relu_difference(model: nn.Module) -> float:
    """How much the features of a model differ from those with ReLU, on one random picture.

    For each feature map this is the norm of the difference over the norm of the map with ReLU; the largest counts. The
    features of a detector or segmentor are the outputs of its heads, or of its neck if the heads need RoIs.
    """
    picture = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    outputs = []
    for network in (copy.deepcopy(model), relu_twin(model)):
        network = revert_sync_batchnorm(network)
        network.eval()
        with torch.no_grad():
            outputs.append(list(_tensors(_features(network, picture))))
    return max(((ours - relu).norm() / relu.norm()).item() for ours, relu in strict_zip(*outputs))


def _features(network: nn.Module, picture: Tensor) -> Any:
    if not isinstance(network, BaseModel):
        return network(picture)
    if hasattr(network, "roi_head"):
        return network.extract_feat(picture)
    return network(picture, mode="tensor")


def _tensors(outputs: Any) -> Iterable[Tensor]:
    if isinstance(outputs, Tensor):
        yield outputs
    else:
        for output in outputs.values() if isinstance(outputs, Mapping) else outputs:
            yield from _tensors(output)
