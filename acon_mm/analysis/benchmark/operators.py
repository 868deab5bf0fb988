"""One activation on tensors: time over ``nn.SiLU``'s in the same round, bytes kept, and GB/s beside a copy's."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, product
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ... import compat
from .measure import forward, forward_backward, interleaved, kept_bytes, ratios
from .peers import FORMS

#: shapes of x by name: feature maps, regions of interest, and outputs of fully connected layers
SHAPES: dict[str, tuple[tuple[int, ...], ...]] = {
    "maps": ((2, 64, 200, 200), (2, 256, 100, 100), (2, 512, 50, 50), (2, 2048, 25, 25), (16, 64, 56, 56)),
    "rois": tuple((count, 256, size, size) for size, most in ((7, 2000), (14, 1000)) for count in (100, 400, most)),
    "linear": ((256, 256), (256, 1024), (1000, 1024), (2000, 1024)),
}
ACTS = ("AconC", "MetaAconC (no norm)", "MetaAconC")
LAYOUTS = ("contiguous", "channels_last")
REFERENCE = "SiLU"
PEERS = ("ReLU", "authors", "yolov5", "compile", "fallback")
#: times that each pass moves x at least: forward reads x and writes the result; backward reads x and the gradient,
#: and writes a gradient
_MOVES = {"forward": 2, "forward + backward": 5}


@dataclass(frozen=True)
class Setting:
    """What is measured: an activation of :data:`ACTS` on one sort of tensor."""

    act: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    layout: str
    threads: int


@dataclass
class Case:
    """One row of the table."""

    act: str
    shape: tuple[int, ...]
    dtype: str
    layout: str
    threads: int
    #: ``'forward'`` or ``'forward + backward'``
    passes: str
    #: time over SiLU's, by candidate
    ratio: dict[str, float]
    #: bytes kept for backward over the bytes of x, by candidate
    kept: dict[str, float]
    #: 1e9 bytes per second that ``ours`` moves, if it moves x twice in forward and five times in forward + backward
    gigabytes: float
    #: 1e9 bytes per second that a copy moves
    copy_gigabytes: float


def measure(
    *,
    acts: Sequence[str] = ACTS,
    shapes: Sequence[tuple[int, ...]] = SHAPES["maps"],
    dtypes: Sequence[torch.dtype] = (torch.float32,),
    layouts: Sequence[str] = LAYOUTS[:1],
    threads: Sequence[int] = (1,),
    peers: Sequence[str] = PEERS,
    device: torch.device,
    seconds: float,
    done: int = 0,
) -> Iterator[Case]:
    """Measure all combinations; each gives a case for forward and one for forward + backward.

    Args:
        acts: of :data:`ACTS`.
        peers: of :data:`PEERS`; SiLU and ours are always measured, and so are, for Meta-ACON, the two linear layers of
            its generator alone.
        seconds: to measure each case.
        done: how many cases to leave out at the start; a multiple of two.

    Raises:
        ValueError: channels_last with a shape that is not ``(N, C, H, W)``.
    """
    if "channels_last" in layouts and any(len(shape) != 4 for shape in shapes):
        raise ValueError("channels_last takes shapes (N, C, H, W) only")
    for count, dtype, layout, shape, act in islice(product(threads, dtypes, layouts, shapes, acts), done // 2, None):
        torch.set_num_threads(count)
        yield from _cases(Setting(act, tuple(shape), dtype, layout, count), peers, device, seconds)


def _cases(setting: Setting, peers: Sequence[str], device: torch.device, seconds: float) -> Iterator[Case]:
    torch.manual_seed(0)
    # Each case is compiled by itself: dynamo stops compiling a function after a few shapes.
    compat.reset_compiler()
    candidates = _candidates(setting.act, setting.shape[1], peers, device)
    x = torch.randn(setting.shape, device=device).to(setting.dtype)
    if setting.layout == "channels_last":
        x = x.to(memory_format=torch.channels_last)
    x.requires_grad_()
    grad = torch.randn_like(x)
    size = x.numel() * x.element_size()
    kept = {
        name: kept_bytes(module, x, [*module.parameters(), *module.buffers()]) / size
        for name, module in candidates.items()
        if name != "compile"
    }
    copy_x = partial(torch.empty_like(x, requires_grad=False).copy_, x.detach())
    one = {name: forward(module, x) for name, module in candidates.items()}
    both = {name: forward_backward(module, x, grad) for name, module in candidates.items()}
    if setting.act != "AconC":
        one["linears"], both["linears"] = _linears(candidates["ours"], x)
    for passes, calls, inputs in (
        ("forward", one, [x.detach()]),
        ("forward + backward", both, [x.detach(), grad]),
    ):
        times = interleaved({**calls, "copy": copy_x}, seconds=seconds, device=device, inputs=inputs)
        yield Case(
            act=setting.act,
            shape=setting.shape,
            dtype=str(setting.dtype).removeprefix("torch."),
            layout=setting.layout,
            threads=setting.threads,
            passes=passes,
            ratio=ratios(times, REFERENCE),
            kept=kept,
            gigabytes=_MOVES[passes] * size / median(times["ours"]) / 1e9,
            copy_gigabytes=2 * size / median(times["copy"]) / 1e9,
        )


def _candidates(act: str, channels: int, peers: Sequence[str], device: torch.device) -> dict[str, nn.Module]:
    name, _, no_norm = act.partition(" ")
    forms = FORMS[name]
    options = dict(norm_cfg=None) if no_norm else {}
    ours = forms["ours"](channels, init="paper", **options)
    modules: dict[str, Any] = {REFERENCE: nn.SiLU(), "ours": ours}
    for peer in peers:
        if peer == "ReLU":
            modules[peer] = nn.ReLU()
        elif peer == "compile":
            modules[peer] = torch.compile(_like(forms["yolov5"], ours, channels, options))
        else:
            modules[peer] = _like(forms[peer], ours, channels, options)
    return {key: module.to(device) for key, module in modules.items()}


def _like(form: type[nn.Module], ours: nn.Module, channels: int, options: dict) -> nn.Module:
    """The activation in another form, with the parameters of ``ours``."""
    module = form(channels, init="paper", **options)
    module.load_state_dict(copy.deepcopy(ours.state_dict()))
    return module


def _linears(meta: Any, x: Tensor) -> tuple[Callable[[], object], Callable[[], object]]:
    """The two linear layers of a generator: forward, and forward + backward. No Meta-ACON can be faster."""
    weights = [t.detach().clone().requires_grad_() for t in (*meta.fc1.parameters(), *meta.fc2.parameters())]
    w1, b1, w2, b2 = weights
    mean = torch.randn(x.shape[0], x.shape[1], device=x.device, requires_grad=True)
    grad = torch.randn_like(mean)

    def run() -> Tensor:
        hidden = functional.linear(mean, w1.flatten(1), b1)
        return functional.linear(hidden, w2.flatten(1), b2)

    return torch.no_grad()(run), lambda: torch.autograd.grad(run(), [mean, *weights], grad)
