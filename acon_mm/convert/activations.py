"""What counts as an activation: the modules, functions and methods that ``act_cfg`` replaces, and those it keeps."""

from __future__ import annotations

from collections.abc import Sequence
from types import CodeType, FunctionType
from typing import Any

import torch
from mmcv.cnn.bricks import HSigmoid, Swish
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..layers import Acon

#: the layers that ``act_cfg`` replaces: ReLU, and what networks use instead of it
ACTIVATIONS = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.CELU, nn.SELU, nn.Threshold),
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
    ("threshold threshold_", nn.Threshold, ("threshold", "value", "inplace")),
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
    for _place in (F, torch, torch._C._nn, Tensor, torch.ops.aten):
        for _name in _names.split():
            _function = getattr(_place, _name, None)
            for _each in filter(None, (_function, getattr(_function, "default", None))):
                ACTIVATION_FUNCTIONS[_each] = (_layer, _options)
#: the names of those functions and layers
ACTIVATION_NAMES = {each.__name__ for each in (*ACTIVATION_FUNCTIONS, *ACTIVATIONS)}
#: functions that take the slope of a PReLU
WEIGHTED = (F.prelu, torch.prelu)
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
    if function.__name__.partition(".")[0].endswith("_"):
        options["inplace"] = True
    return layer(**options)


class _Calls(TorchFunctionMode):
    """Notes the calls of PyTorch's functions."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Sequence[Any], dict[str, Any], Any]] = []

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict | None = None) -> Any:
        output = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, output))
        return output


def same_as_function(function: FunctionType) -> nn.Module | None:
    """The module that does the same as ``lambda x: F.leaky_relu(x, 0.1)``; None if the function does anything else."""
    if not mentions_activation(function.__code__):
        return None
    x = torch.ones(1, 2, 2, 2)
    try:
        with torch.random.fork_rng(), torch.no_grad(), _Calls() as seen:
            y = function(x)
    except Exception:
        return None
    if len(seen.calls) != 1:
        return None
    called, args, kwargs, output = seen.calls[0]
    is_activation = output is y and args and args[0] is x and called in ACTIVATION_FUNCTIONS
    return same_module(called, args, kwargs) if is_activation else None


def computed_inside(layer: nn.Module) -> str | None:
    """The attribute of a layer of PyTorch's own that names an activation which the layer computes with other things."""
    if isinstance(layer, (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)):
        activation = layer.activation
        known = isinstance(activation, ACTIVATIONS) or activation in ACTIVATION_FUNCTIONS
        return "activation" if known else None
    return "nonlinearity" if getattr(layer, "nonlinearity", None) == "relu" and _is_recurrent(layer) else None


def _is_recurrent(layer: nn.Module) -> bool:
    return isinstance(layer, (nn.RNNBase, nn.RNNCellBase))


def compiled_activates(compiled: Any) -> bool:
    """Whether a function or module of ``torch.jit.script`` calls an activation."""
    graph = str(compiled.inlined_graph)
    return any(f"aten::{name}(" in graph for name in ACTIVATION_NAMES)


def mentions_activation(code: CodeType) -> bool:
    """Whether the code names an activation."""
    inner = (each for each in code.co_consts if isinstance(each, CodeType))
    return not ACTIVATION_NAMES.isdisjoint(code.co_names) or any(map(mentions_activation, inner))
