"""From the authors' files to backbones of mmdet and mmseg, verified on the way."""

from collections import OrderedDict
from collections.abc import Mapping

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from ..version import __version__
from . import authors, requirements
from .authors import Layout
from .loading import load_state_dict
from .reading import CheckpointError

#: the largest difference that verification stands, relative to the largest value of a stage
TOLERANCE = 1e-4


def convert_official(checkpoint: Mapping, keep_classifier: bool = False) -> dict:
    """Convert one of the authors' ResNets.

    Each convolution's bias goes into the norm after it, exactly: ``running_mean -= bias``. ACON's parameters keep their
    values, as ``(C,)``; ``acon`` becomes ``act2``, ``acon1`` and ``acon2`` become ``act1`` and ``act2``.

    Args:
        checkpoint: as read from their file.
        keep_classifier: whether ``fc`` stays (a backbone drops it when it loads).

    Returns:
        a checkpoint with the names of a bare backbone and what it requires; ``difference`` in its ``meta`` is
        the worst output's (:func:`compare`).

    Raises:
        CheckpointError: it is no such file, not complete, or the converted network computes something else.
    """
    state = authors.state_of(checkpoint)
    layout = authors.layout_of(state)
    if keep_classifier and not {"fc.weight", "fc.bias"} <= state.keys():
        raise CheckpointError("it has no classifier (fc.weight, fc.bias) to keep")
    if not keep_classifier:
        state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    converted = _convert(state, layout)
    requirements.attach(converted, requirements_for(layout))
    differences = compare(state, layout, converted)
    worst = max(differences)
    if not worst <= TOLERANCE:  # a NaN is no less
        raise CheckpointError(
            f"the converted network computes something else: outputs differ by {worst:.1e} relative, "
            f"not by {TOLERANCE:g} at most"
        )
    return {"state_dict": converted, "meta": {"acon_mm_version": __version__, "difference": worst}}


def requirements_for(layout: Layout) -> requirements.Requirements:
    """What the weights of such a network need of a backbone and of the pictures."""
    return {
        "source": "authors",
        "depth": layout.depth,
        "style": "caffe",
        "stem_channels": layout.stem,
        "base_channels": layout.base,
        "act_cfg": {"type": layout.acon_type},
        "input": {"channel_order": "bgr", "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]},
    }


def _convert(state: Mapping[str, Tensor], layout: Layout) -> OrderedDict:
    acon_names = {"acon": "act2", "acon1": "act1", "acon2": "act2"}
    converted = OrderedDict()
    for key, value in state.items():
        parts = key.split(".")
        if value.is_floating_point() and not value.isfinite().all():
            raise CheckpointError(f"{key} has values that are not finite")
        if len(parts) > 2 and parts[2] in acon_names:
            parts[2] = acon_names[parts[2]]
            name = ".".join(parts)
            converted[name] = value.flatten() if parts[-1] in ("p1", "p2", "beta") else value
            if layout.acon_type == "MetaAconC" and parts[-1] == "p1":
                converted[name.removesuffix("p1") + "_extra_state"] = torch.tensor(1.0)
        elif not _is_conv_bias(key, state):
            bias = state.get(_bias_before(key))
            # In double precision, so that only the result is rounded.
            converted[key] = value if bias is None else (value.double() - bias.double()).to(value.dtype)
    return converted


def _is_conv_bias(key: str, state: Mapping[str, Tensor]) -> bool:
    weight = state.get(key.removesuffix("bias") + "weight")
    return key.endswith(".bias") and weight is not None and weight.dim() == 4


def _bias_before(key: str) -> str:
    """The bias of the convolution whose output a running mean is of; for other names, one that does not exist."""
    if not key.endswith(".running_mean"):
        return ""
    norm = key.removesuffix(".running_mean")
    return f"{norm[:-1]}0.bias" if norm.endswith("downsample.1") else f"{norm.replace('bn', 'conv')}.bias"


def compare(state: Mapping[str, Tensor], layout: Layout, converted: Mapping[str, Tensor]) -> list[float]:
    """How far the four stages (and the logits) of the converted backbone are from the authors', relative.

    Both see one random picture, in evaluation mode and double precision, where rounding hides nothing.
    """
    picture = torch.rand(1, 3, 96, 128, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 255
    backbone = build_backbone(layout)
    load_state_dict(backbone, converted)
    backbone.double().eval()  # which returns nothing here
    with torch.no_grad():
        theirs = authors.forward({key: _double(value) for key, value in state.items()}, layout, picture)
        ours = list(backbone(picture))
        if "fc.weight" in converted:
            pooled = ours[-1].mean((2, 3))
            ours.append(F.linear(pooled, converted["fc.weight"].double(), converted["fc.bias"].double()))
    return [((a - b).abs().max() / b.abs().max()).item() for a, b in zip(ours, theirs, strict=True)]


def _double(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value


def build_backbone(layout: Layout) -> nn.Module:
    """The mm backbone that such weights are for."""
    scope = "mmdet" if MODELS.get("mmdet.ResNet") else "mmseg"
    return MODELS.build(
        {
            "type": f"{scope}.ResNet",
            "depth": layout.depth,
            "style": "caffe",
            "stem_channels": layout.stem,
            "base_channels": layout.base,
            "act_cfg": {"type": layout.acon_type, "init": "paper"},
        }
    )
