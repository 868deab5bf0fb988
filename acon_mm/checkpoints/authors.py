"""The ResNets of the authors' release (github.com/nmaac/acon): what their files contain, and what they compute.

They have a 7x7 stem, four stages and a classifier ``fc``. The stride of a bottleneck is in its first convolution. Every
convolution has a bias. A bottleneck has ACON after its 3x3 convolution (``acon``), a basic block has it at both
activations (``acon1`` after bn1, ``acon2`` after the sum). All other activations are ReLU. The input is BGR, 0..255,
without normalisation.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..ops import reference
from .reading import CheckpointError

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_BASIC = (18, 34)
_BN = ("weight", "bias", "running_mean", "running_var")
_EPS = 1e-5
_DIFFERS = "it differs from the authors' file, which is needed as they published it"


class Layout(NamedTuple):
    """The differences between their networks.

    Attributes:
        depth: 18, 34 (basic blocks), 50, 101 or 152 (bottlenecks).
        acon_type: ``"AconC"`` or ``"MetaAconC"``.
        stem, base: channels of the stem and of the first stage (64 and 64 in the release).
    """

    depth: int
    acon_type: str
    stem: int
    base: int

    @property
    def basic(self) -> bool:
        return self.depth in _BASIC

    def blocks(self) -> list[tuple[str, int, int]]:
        """Name, channels and stride of every block."""
        return [
            (f"layer{stage + 1}.{index}", self.base * 2**stage, 2 if stage and not index else 1)
            for stage, count in enumerate(BLOCKS[self.depth])
            for index in range(count)
        ]


def state_of(checkpoint: Mapping) -> dict[str, Tensor]:
    """The tensors of one of their files. They may lie in ``state_dict``, with names that begin with ``module.``."""
    state = checkpoint.get("state_dict", checkpoint)
    return {key.removeprefix("module."): value for key, value in state.items()}


def layout_of(state: Mapping[str, Tensor]) -> Layout:
    """The layout of the network that a state dict belongs to.

    Raises:
        CheckpointError: it is not one of their networks, or a tensor is missing, is unknown or has another shape.
    """
    first = "layer1.0.conv1.weight"
    if "conv1.weight" not in state or first not in state:
        raise CheckpointError(
            "it is not a ResNet of the authors' release: these have conv1.weight, layer1.0.conv1.weight, ...; it has "
            + (", ".join(list(state)[:3]) or "nothing")
        )
    basic = "layer1.0.conv3.weight" not in state
    acon = "acon1" if basic else "acon"
    if f"layer1.0.{acon}.p1" not in state:
        advice = ": if it is a ReLU network, convert it with tools/model_converters/convert_checkpoint.py relu"
        raise CheckpointError(
            f"it is not a network of the authors with ACON, since layer1.0.{acon}.p1 is missing"
            + (advice if "layer1.0.conv1.bias" not in state else "")
        )
    acon_type = "MetaAconC" if f"layer1.0.{acon}.fc1.weight" in state else "AconC"
    counts = tuple(
        len({found[1] for key in state if (found := re.match(rf"layer{stage}\.(\d+)\.", key))})
        for stage in (1, 2, 3, 4)
    )
    depth = next((d for d, blocks in BLOCKS.items() if blocks == counts and (d in _BASIC) == basic), None)
    if depth is None:
        if lacking := [f"layer{stage}" for stage, count in enumerate(counts, 1) if not count]:
            raise CheckpointError(f"{_DIFFERS}: {' and '.join(lacking)} is missing")
        blocks = "basic blocks" if basic else "bottlenecks"
        raise CheckpointError(f"the authors have no ResNet with stages of {counts} {blocks}: they have {BLOCKS}")
    layout = Layout(depth, acon_type, len(state["conv1.weight"]), len(state[first]))
    _check_shapes(state, shapes(layout))
    return layout


def _check_shapes(state: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    wrong = [
        f"{key} is {tuple(state[key].shape)}, not {shape}"
        for key, shape in expected.items()
        if key in state and tuple(state[key].shape) != shape
    ]
    missing = [f"{key} is missing" for key in expected if key not in state]
    ignored = ("num_batches_tracked", "fc.weight", "fc.bias")
    extra = [f"{key} is unknown" for key in state if key not in expected and not key.endswith(ignored)]
    found = [*wrong, *missing, *extra]
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise CheckpointError(f"{_DIFFERS}: {'; '.join(found[:3])}{more}")


def shapes(layout: Layout) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in such a file, without the classifier and the counters of batch norms."""
    expected: dict[str, tuple[int, ...]] = {}

    def conv(name: str, norm: str, out: int, into: int, kernel: int) -> None:
        expected[f"{name}.weight"], expected[f"{name}.bias"] = (out, into, kernel, kernel), (out,)
        expected.update({f"{norm}.{leaf}": (out,) for leaf in _BN})

    def acon(name: str, channels: int) -> None:
        names = ("p1", "p2", "beta") if layout.acon_type == "AconC" else ("p1", "p2")
        expected.update({f"{name}.{leaf}": (1, channels, 1, 1) for leaf in names})
        if layout.acon_type == "MetaAconC":
            hidden = max(16, channels // 16)
            conv(f"{name}.fc1", f"{name}.bn1", hidden, channels, 1)
            conv(f"{name}.fc2", f"{name}.bn2", channels, hidden, 1)

    conv("conv1", "bn1", layout.stem, 3, 7)
    into = layout.stem
    for name, channels, stride in layout.blocks():
        out = channels if layout.basic else 4 * channels
        kernels = (3, 3) if layout.basic else (1, 3, 1)
        for number, (kernel, outs) in enumerate(zip(kernels, (channels, channels, out)), 1):
            conv(f"{name}.conv{number}", f"{name}.bn{number}", outs, into if number == 1 else channels, kernel)
        if stride != 1 or into != out:
            conv(f"{name}.downsample.0", f"{name}.downsample.1", out, into, 1)
        for leaf in ("acon1", "acon2") if layout.basic else ("acon",):
            acon(f"{name}.{leaf}", channels)
        into = out
    return expected


def forward(state: Mapping[str, Tensor], layout: Layout, x: Tensor) -> list[Tensor]:
    """The outputs of the four stages in evaluation mode, and of the classifier if there is one.

    It uses functions of PyTorch and the formula in ``ops/reference.py``, but no module of this package. So the modules
    can be compared with it.
    """

    def conv(x: Tensor, name: str, norm: str, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        x = F.conv2d(x, weight, state[f"{name}.bias"], stride, padding=weight.shape[-1] // 2)
        scale, shift, mean, var = (state[f"{norm}.{leaf}"] for leaf in _BN)
        return F.batch_norm(x, mean, var, scale, shift, training=False, eps=_EPS)

    def acon(x: Tensor, name: str) -> Tensor:
        p1, p2 = state[f"{name}.p1"], state[f"{name}.p2"]
        if layout.acon_type == "AconC":
            beta = state[f"{name}.beta"]
        else:
            hidden = conv(x.mean((2, 3), keepdim=True), f"{name}.fc1", f"{name}.bn1")
            beta = torch.sigmoid(conv(hidden, f"{name}.fc2", f"{name}.bn2"))
        return reference.forward_composed(x, p1, p2, beta, channel_dim=1)

    x = F.max_pool2d(conv(x, "conv1", "bn1", 2).relu(), 3, 2, 1)
    outputs = []
    for name, _, stride in layout.blocks():
        if name.endswith(".0") and name != "layer1.0":
            outputs.append(x)
        down = f"{name}.downsample."
        identity = conv(x, f"{down}0", f"{down}1", stride) if f"{down}0.weight" in state else x
        first = conv(x, f"{name}.conv1", f"{name}.bn1", stride)
        if layout.basic:
            second = conv(acon(first, f"{name}.acon1"), f"{name}.conv2", f"{name}.bn2")
            x = acon(second + identity, f"{name}.acon2")
        else:
            second = acon(conv(first.relu(), f"{name}.conv2", f"{name}.bn2"), f"{name}.acon")
            x = (conv(second, f"{name}.conv3", f"{name}.bn3") + identity).relu()
    outputs.append(x)
    if "fc.weight" in state:
        outputs.append(F.linear(x.mean((2, 3)), state["fc.weight"], state["fc.bias"]))
    return outputs
