"""What reading a source tells of a tensor: its channels, and the layer that it comes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from mmcv.cnn import ConvModule
from torch import nn

from .channels import Channels, input_channels, keeps_channels, output_channels

#: functions and methods of tensors whose output has the channels of their input, by name
_KEEPING = frozenset(
    (
        *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "avg_pool1d", "avg_pool2d"),
        *("avg_pool3d", "bfloat16", "clamp", "clamp_", "clone", "contiguous", "cpu", "cuda", "detach"),
        *("double", "drop_path", "dropout", "dropout1d", "dropout2d", "dropout3d", "dropout_", "exp"),
        *("float", "half", "hardsigmoid", "interpolate", "log_softmax", "max_pool1d", "max_pool2d"),
        *("max_pool3d", "normalize", "pad", "requires_grad_", "resize", "sigmoid", "softmax", "sqrt", "tanh"),
        *("to", "type", "type_as", "upsample", "zeros_like", "ones_like", "abs", "neg"),
    )
)
#: those that take several tensors of the same channels, apart from broadcasting
_ELEMENTWISE = frozenset(
    (
        *("add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_", "maximum", "minimum", "where"),
        *("addcmul", "lerp", "multiply", "subtract"),
    )
)


class Value:
    """A tensor, or anything else that only a run tells.

    Attributes:
        channels: its channels; None if unknown.
        layer: the last layer with weights that it came through; None if unknown.
    """

    def __init__(self, channels: Channels | None = None, layer: nn.Module | None = None) -> None:
        self.channels = channels
        self.layer = layer

    def resolve(self) -> Channels | None:
        return self.channels

    def is_taken_by(self, channels: Channels | None) -> None:
        """Note the channels that the next layer takes."""
        if self.resolve() is None:
            self.channels = channels


class Stored(Value):
    """A parameter or buffer."""


class Later(Value):
    """A value that is computed when it is asked for."""

    def __init__(self, compute: Callable[[], Channels | None], layer: nn.Module | None = None) -> None:
        super().__init__(layer=layer)
        self._compute: Callable[[], Channels | None] | None = compute

    def resolve(self) -> Channels | None:
        if self._compute is not None:
            compute, self._compute = self._compute, None  # also ends a recursion
            self.channels = compute() or self.channels
        return self.channels


class Varying(Later):
    """A value that is another one each time that a loop runs: the layers that take it do not tell its channels."""

    def is_taken_by(self, channels: Channels | None) -> None:
        pass


def elementwise(parts: Sequence[Any]) -> Value:
    """A sum, product or the like. One channel fits any number of channels."""
    values = [each for each in parts if isinstance(each, Value)]

    def compute() -> Channels | None:
        known = {channels for value in values if (channels := value.resolve()) is not None}
        many = {channels for channels in known if channels.num_channels > 1}
        if len(many) == 1:
            return many.pop()
        return known.pop() if len(known) == 1 and not any(value.resolve() is None for value in values) else None

    return Later(compute, next((value.layer for value in values if value.layer is not None), None))


def joined(values: Sequence[Value]) -> Value:
    """A value that is one of several: after an ``if``, or returned at one of several places."""
    if len(values) == 1 or all(value is values[0] for value in values):
        return values[0]

    def compute() -> Channels | None:
        found = {value.resolve() for value in values}
        return found.pop() if len(found) == 1 else None

    layers = {value.layer for value in values}
    return Later(compute, layers.pop() if len(layers) == 1 else None)


def after_function(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """The output of a function, or of a method of a tensor (then ``args[0]`` is the tensor): values, or one."""
    first = args[0] if args else None
    if name in _ELEMENTWISE:
        return elementwise(args)
    if name in ("cat", "concat", "concatenate") and isinstance(first, (list, tuple)):
        dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
        return _concatenated(first, dim)
    if not isinstance(first, Value):
        return Value()
    if name in _KEEPING:
        return first
    if name in ("chunk", "split"):
        return _parts(name, first, args[1:], kwargs) or Value(layer=first.layer)
    if name in ("permute", "transpose", "mean"):
        return Later(lambda: _moved(name, first.resolve(), args[1:], kwargs), first.layer)
    return Value(layer=first.layer)


def _parts(name: str, x: Value, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Value, ...] | None:
    """What ``chunk(number, dim)`` and ``split(sizes, dim)`` return; None if only a run tells how many."""
    how = args[0] if args else kwargs.get("chunks")
    dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
    number = how if name == "chunk" else len(how) if isinstance(how, (list, tuple)) else None
    if not isinstance(number, int) or number < 1:
        return None

    def channels_of(i: int) -> Channels | None:
        channels = x.resolve()
        if channels is None or dim not in (0, 1, 2, 3, -1):
            return None
        if dim != channels.channel_dim:  # -1 may be the dimension of the channels, too
            return None if dim == -1 or channels.channel_dim == -1 else channels
        size = how[i] if isinstance(how, (list, tuple)) else channels.num_channels / number
        return channels._replace(num_channels=int(size)) if isinstance(size, (int, float)) and size % 1 == 0 else None

    return tuple(Later(partial(channels_of, i), x.layer) for i in range(number))


def _concatenated(values: Sequence[Any], dim: Any) -> Value:
    def compute() -> Channels | None:
        found = [value.resolve() if isinstance(value, Value) else None for value in values]
        known = [channels for channels in found if channels is not None]
        if len(known) < len(found) or len({channels.channel_dim for channels in known}) != 1:
            return None
        if dim == known[0].channel_dim:
            return Channels(sum(channels.num_channels for channels in known), dim)
        return known[0] if isinstance(dim, int) and len(set(known)) == 1 and dim in (0, 2, 3) else None

    return Later(compute, next((v.layer for v in values if isinstance(v, Value) and v.layer), None))


def _moved(name: str, channels: Channels | None, args: Sequence[Any], kwargs: dict[str, Any]) -> Channels | None:
    """The channels after ``permute``, ``transpose`` or ``mean``."""
    if channels is None:
        return None
    dims = list(args[0]) if args and isinstance(args[0], (list, tuple)) else list(args)
    if name == "mean":
        dims = dims if dims else kwargs.get("dim", [])
        dims = [dims] if isinstance(dims, int) else dims
        spatial = all(isinstance(dim, int) and dim in (2, 3, -1, -2) for dim in dims)
        return channels if dims and spatial and channels.channel_dim == 1 and kwargs.get("keepdim") is True else None
    if not dims or not all(isinstance(dim, int) for dim in dims):
        return None
    if name == "permute":
        dim = channels.channel_dim % len(dims)
        new = [each % len(dims) for each in dims].index(dim)
        return channels._replace(channel_dim=-1 if new == len(dims) - 1 else new)
    if set(dims) in ({1, -1}, {1, 2}):  # of tokens: (N, C, L) and (N, L, C)
        return channels._replace(channel_dim=-1 if channels.channel_dim == 1 else 1)
    return None


def after_layer(layer: nn.Module, x: Any) -> Value | None:
    """The output of a layer that is known by its class; None if it is not."""
    x = x if isinstance(x, Value) else Value()
    if keeps_channels(layer):
        return x
    channels = output_channels(layer)
    if channels is None:
        return None
    x.is_taken_by(input_channels(layer))
    if isinstance(layer, nn.Linear) or getattr(layer, "kernel_size", None) or isinstance(layer, ConvModule):
        return Value(channels, layer)
    # A norm may be frozen alone, so the layer with weights before it says more.
    return Value(channels, x.layer or layer)
