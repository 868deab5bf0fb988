"""Channels that no layer and no source shows are found by running a copy of the model once.

The copy runs in evaluation mode, without gradients, on a tiny input. The model itself and the states of random numbers
stay as they are.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode

from ..compat import strict_zip
from ..layers import Acon
from .channels import Channels

#: the sizes of the pictures that are tried; some networks take no small ones
_SIZES = (32, 64, 224)

_CONVOLUTIONS = {torch.conv1d, torch.conv2d, torch.conv3d, torch.conv_transpose2d, torch.batch_norm, torch.group_norm}
_NORMS_AND_CONVOLUTIONS = _CONVOLUTIONS | {F.batch_norm, F.group_norm, F.instance_norm, torch.instance_norm}
_CHANNELS_LAST = {F.linear, F.layer_norm, torch.layer_norm, torch._C._nn.linear}
_DIM = "_acon_channel_dim"


class Probe(nn.Module):
    """Takes the place of an activation, and notes the channels that it meets."""

    def __init__(self, activation: nn.Module | None) -> None:
        super().__init__()
        without_channels = isinstance(activation, Acon) and activation.num_channels is None
        self.activation = nn.ReLU() if activation is None or without_channels else activation
        self.met: set[tuple[Channels | None, tuple[int, ...]]] = set()
        self.calls = 0

    def forward(self, input: Tensor) -> Tensor:
        x = input
        self.calls += 1
        dim = getattr(x, _DIM, None)
        if dim is None and x.dim() != 3:
            dim = 1
        self.met.add((None if dim is None else Channels(x.shape[dim], dim), tuple(x.shape)))
        return self.activation(x)

    def channels(self) -> Channels | str:
        """What it met; or why that does not tell the channels."""
        if not self.met:
            return "is not called when the model runs once in evaluation mode"
        found = {channels for channels, _ in self.met}
        if len(found) > 1:
            shapes = sorted(shape for _, shape in self.met)
            return f"meets different numbers of channels: inputs of the shapes {shapes}"
        channels = found.pop()
        return (
            channels or f"has inputs of the shape {next(iter(self.met))[1]}, which does not show where the channels are"
        )


class _ChannelDims(TorchFunctionMode):
    """Marks each tensor with the dimension of its channels."""

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, (tuple, list)) else (out,):  # several of chunk and split
            if isinstance(each, Tensor):
                dim = self._dim(func, args, each)
                if dim is not None:
                    setattr(each, _DIM, dim)
        return out

    @staticmethod
    def _dim(func: Any, args: Sequence[Any], out: Tensor) -> int | None:
        if func in _NORMS_AND_CONVOLUTIONS:
            return 1
        if func in _CHANNELS_LAST:
            return -1
        parts = (part for each in args[:3] for part in (each if isinstance(each, (list, tuple)) else (each,)))
        before = next((each for each in parts if isinstance(each, Tensor) and hasattr(each, _DIM)), None)
        if before is None:
            return None
        name = getattr(func, "__name__", "")
        if name in ("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "reshape_as", "view_as"):
            return _reshaped(before, out)
        if before.dim() != out.dim():
            return None
        dim = getattr(before, _DIM) % out.dim()
        if name == "permute":
            dims = args[1] if isinstance(args[1], (list, tuple)) else args[1:]
            dim = [each % out.dim() for each in dims].index(dim)
        elif name in ("transpose", "swapaxes"):
            pair = [each % out.dim() for each in args[1:3]]
            dim = pair[1 - pair.index(dim)] if dim in pair else dim
        elif name == "__get__":
            return getattr(before, _DIM) if before.shape == out.shape else None
        return -1 if dim == out.dim() - 1 and dim != 1 else dim


def _reshaped(before: Tensor, out: Tensor) -> int | None:
    """Where the dimension of the channels is after a reshape: it has the same size, and as many elements before it."""
    dim = getattr(before, _DIM) % before.dim()
    size, ahead = before.shape[dim], before.shape[:dim].numel()
    found = [i for i, n in enumerate(out.shape) if n == size and out.shape[:i].numel() == ahead]
    if len(found) != 1:
        return None
    return -1 if found[0] == out.dim() - 1 and found[0] != 1 else found[0]


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Random numbers go on as if nothing had run."""
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(), torch.no_grad():
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def run_probes(model: nn.Module, probes: dict[str, Probe]) -> str | None:
    """Run a model, or its parts around the probes, until each probe has met a tensor.

    Args:
        model: a copy that may be changed.
        probes: the probes in it, by name.

    Returns:
        the error of the last try, if a probe was not called; None otherwise.
    """
    problem = None
    model.eval()
    roots = dict.fromkeys(
        ".".join(path.split(".")[:depth]) for depth in range(4) for path in probes if path.count(".") >= depth
    )
    with _undisturbed():
        for root in roots:
            inside = [probe for path, probe in probes.items() if path.startswith(f"{root}." if root else "")]
            module = model.get_submodule(root)
            if all(probe.met for probe in inside) or type(module).forward is nn.Module.forward:
                continue
            problem = _run(module, inside) or problem
    return problem if any(not probe.met for probe in probes.values()) else None


def _run(module: nn.Module, probes: list[Probe]) -> str | None:
    problem = None
    for shapes, wrap in _inputs(module):
        problem_now = _call(module, wrap([_tensor(module, shape) for shape in shapes]), probes)
        problem = problem or problem_now
        if problem_now is None:
            met = [set(probe.met) for probe in probes]
            # If an input of other channels or size fits as well, and channels differ, neither is known to be right.
            for change in ("channels", "size"):
                others = [_tensor(module, shape, change) for shape in shapes]
                if _call(module, wrap(others), probes) is None:
                    met = [one | probe.met for one, probe in strict_zip(met, probes)]
            for probe, each in strict_zip(probes, met):
                probe.met = each
            return None
    for probe in probes:
        probe.met.clear()
    return f"running {type(module).__name__} on a tiny input fails ({problem})" if problem else None


def _call(module: nn.Module, inputs: tuple[Sequence[Any], dict[str, Any]], probes: list[Probe]) -> str | None:
    """Call a module. The error in words, or None."""
    for probe in probes:
        probe.met.clear()
        probe.calls = 0
    try:
        with _ChannelDims():
            module(*inputs[0], **inputs[1])
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
    return None


def _tensor(module: nn.Module, shape: tuple[int, ...], change: str | None = None) -> Tensor:
    """An input of this shape; with one channel more, or of twice the size."""
    like = next(module.parameters(), torch.empty(0))
    dim = 1 if len(shape) != 3 else 2
    if change is not None:
        shape = tuple(
            n if i == 0 else n + (change == "channels") if i == dim else n * (1 + (change == "size"))
            for i, n in enumerate(shape)
        )
    x = torch.rand(shape, device=like.device, dtype=like.dtype if like.is_floating_point() else None)
    setattr(x, _DIM, 1 if dim == 1 else -1)
    return x


_Wrap = Callable[[list[Tensor]], tuple[Sequence[Any], dict[str, Any]]]
_AS_THEY_ARE: _Wrap = lambda xs: (xs, {})  # noqa: E731
_AS_LIST: _Wrap = lambda xs: ([xs], {})  # noqa: E731
_AS_TUPLE: _Wrap = lambda xs: ([tuple(xs)], {})  # noqa: E731
_AS_MODEL: _Wrap = lambda xs: (xs, {"mode": "tensor"})  # noqa: E731


def _inputs(module: nn.Module) -> Iterator[tuple[list[tuple[int, ...]], _Wrap]]:
    """Inputs that may fit a module, which says its input channels, or whose first layer does."""
    first = next((each for each in module.modules() if isinstance(each, (_ConvNd, nn.Linear))), None)
    own = getattr(module, "in_channels", None)
    if isinstance(own, (list, tuple)) and all(isinstance(each, int) for each in own):
        levels: list[tuple[int, ...]] = [(1, channels, 64 >> i, 64 >> i) for i, channels in enumerate(own)]
        yield levels, _AS_LIST
        yield levels, _AS_TUPLE
        return
    if isinstance(first, nn.Linear) and not isinstance(own, int):
        yield [(2, first.in_features)], _AS_THEY_ARE
        yield [(2, 5, first.in_features)], _AS_THEY_ARE
        yield [(2, first.in_features, 6, 5)], _AS_THEY_ARE
    dims = first.weight.dim() - 2 if isinstance(first, _ConvNd) else 2
    taken = [each.in_channels for each in module.modules() if isinstance(each, _ConvNd)]
    parts = (round(by * each) for by in (0.5, 2) for each in taken[:3])  # of an input that is split, or a part of it
    likely = dict.fromkeys([own, *taken[:1], 3, *taken[:6], *parts])
    for number in [each for each in likely if isinstance(each, int) and each > 0]:
        for size in _SIZES:
            yield [(1, number, *[size] * dims)], _AS_THEY_ARE
        x = (1, number, *[_SIZES[0]] * dims)
        yield [x], _AS_LIST
        yield [x, x], _AS_TUPLE
        yield [x], _AS_MODEL
