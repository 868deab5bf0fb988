"""What counts as an activation: the modules, functions and methods that ``act_cfg`` replaces, and those it keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmcv.cnn.bricks import HSigmoid, Swish
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import Acon

#: the layers that ``act_cfg`` replaces: ReLU, and what networks use instead of it
ACTIVATIONS = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.CELU, nn.SELU),
    *(nn.SiLU, nn.GELU, nn.Mish, nn.Hardswish, Swish, Acon),
)
#: the layers that ``act_cfg`` keeps
GATES = (nn.Sigmoid, nn.Hardsigmoid, nn.Tanh, nn.Hardtanh, nn.Softmax, HSigmoid)

GATE = "a gate: it bounds a value, or weighs another"

#: function -> the module that does the same, and its options in the order of the function's arguments
ACTIVATION_FUNCTIONS: dict[Any, tuple[type[nn.Module], tuple[str, ...]]] = {}
for _names, _layer, _options in (
    ("relu relu_", nn.ReLU, ("inplace",)),
    ("relu6", nn.ReLU6, ("inplace",)),
    ("leaky_relu leaky_relu_", nn.LeakyReLU, ("negative_slope", "inplace")),
    ("rrelu rrelu_", nn.RReLU, ("lower", "upper")),
    ("elu elu_", nn.ELU, ("alpha", "inplace")),
    ("celu celu_", nn.CELU, ("alpha", "inplace")),
    ("selu selu_", nn.SELU, ("inplace",)),
    ("silu", nn.SiLU, ("inplace",)),
    ("gelu", nn.GELU, ("approximate",)),
    ("mish", nn.Mish, ("inplace",)),
    ("hardswish", nn.Hardswish, ("inplace",)),
):
    for _place in (F, torch, Tensor):
        for _name in _names.split():
            if hasattr(_place, _name):
                ACTIVATION_FUNCTIONS[getattr(_place, _name)] = (_layer, _options)
#: the methods of tensors that activate
ACTIVATION_METHODS = {"relu": Tensor.relu, "relu_": Tensor.relu_}


def same_module(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> nn.Module | None:
    """A module that computes the same as a call of ``function``; None if its options are not known."""
    layer, names = ACTIVATION_FUNCTIONS[function]
    if layer is nn.RReLU:  # the function is random only with training=True
        return None
    options = dict(zip(names, args[1:])) | {key: v for key, v in kwargs.items() if key in names}
    if not all(isinstance(each, (int, float, str)) for each in options.values()):
        return None
    if function.__name__.endswith("_"):
        options["inplace"] = True
    return layer(**options)
