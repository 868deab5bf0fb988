"""Conversion of the authors' files to backbones of mmdet and mmseg, with a check that the outputs are the same."""

from collections import OrderedDict
from collections.abc import Mapping

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from ..compat import strict_zip
from ..version import __version__
from . import authors, requirements
from .authors import Layout
from .loading import load_state_dict
from .reading import CheckpointError

#: the largest difference of outputs that is allowed, relative to the largest output of a stage
TOLERANCE = 1e-4


def convert_official(checkpoint: Mapping, keep_classifier: bool = False) -> dict:
    """Convert one of the authors' ResNets.

    The bias of each convolution is folded into the norm after it, which is exact: ``running_mean -= bias``. ACON's
    parameters keep their values and get the shape ``(C,)``. ``acon`` becomes ``act2``; ``acon1`` and ``acon2`` become
    ``act1`` and ``act2``.

    Args:
        checkpoint: what their file contains.
        keep_classifier: whether to keep ``fc``. A backbone drops it when it loads the file.

    Returns:
        a checkpoint with the names of a backbone, and with requirements. ``meta["difference"]`` is the largest
        difference that :func:`compare` found.

    Raises:
        CheckpointError: it is not such a file, it is not complete, or the converted network has other outputs.
    """
    state = authors.state_of(checkpoint)
    layout = authors.layout_of(state)
    if keep_classifier and not {"fc.weight", "fc.bias"} <= state.keys():
        raise CheckpointError("it has no classifier (fc.weight, fc.bias): leave out --keep-classifier")
    if not keep_classifier:
        state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    converted = _convert(state, layout)
    requirements.attach(converted, requirements_for(layout))
    differences = compare(state, layout, converted)
    worst = max(differences)
    if not worst <= TOLERANCE:  # not `>`, which is false for NaN
        raise CheckpointError(
            f"the outputs of the converted network differ by {worst:.1e} from those of the authors' network, relative "
            f"to the largest output; {TOLERANCE:g} is allowed. Is the file damaged?"
        )
    return {"state_dict": converted, "meta": {"acon_mm_version": __version__, "difference": worst}}


def requirements_for(layout: Layout) -> requirements.Requirements:
    """What the weights of such a network require of the backbone and of the pictures."""
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
            raise CheckpointError(f"{key} has values that are not finite: is the file damaged?")
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
    """For the name of a running mean: the name of the bias of the convolution before. For others: an empty name."""
    if not key.endswith(".running_mean"):
        return ""
    norm = key.removesuffix(".running_mean")
    return f"{norm[:-1]}0.bias" if norm.endswith("downsample.1") else f"{norm.replace('bn', 'conv')}.bias"


def compare(state: Mapping[str, Tensor], layout: Layout, converted: Mapping[str, Tensor]) -> list[float]:
    """The largest differences of the four stages' outputs, and of the logits, from those of the authors' network.

    They are relative to the largest output. Both networks get one random picture, in evaluation mode and in double
    precision, so that rounding does not hide an error.
    """
    picture = torch.rand(1, 3, 96, 128, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 255
    backbone = build_backbone(layout)
    load_state_dict(backbone, converted)
    backbone.double().eval()
    with torch.no_grad():
        theirs = authors.forward({key: _double(value) for key, value in state.items()}, layout, picture)
        ours = list(backbone(picture))
        if "fc.weight" in converted:
            pooled = ours[-1].mean((2, 3))
            ours.append(F.linear(pooled, converted["fc.weight"].double(), converted["fc.bias"].double()))
    return [((a - b).abs().max() / b.abs().max()).item() for a, b in strict_zip(ours, theirs)]


def _double(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value


def build_backbone(layout: Layout) -> nn.Module:
    """The backbone of mmdet, or of mmseg if mmdet is not there, that loads such weights."""
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
