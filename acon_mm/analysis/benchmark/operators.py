"""One activation on tensors: time over nn.SiLU's in the same round, bytes kept, and GB/s beside a plain copy's."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn

from .measure import interleaved, kept_bytes, ratios
from .peers import FORMS

SHAPES = ((2, 64, 200, 200), (2, 256, 100, 100), (2, 512, 50, 50), (2, 2048, 25, 25), (16, 64, 56, 56))
KINDS = ("AconC", "MetaAconC (no norm)", "MetaAconC")
LAYOUTS = ("contiguous", "channels_last")
PEER = "SiLU"
PEERS = ("ReLU", "authors", "yolov5", "compile", "fallback")


@dataclass
class Case:
    """One line of the table: a kind of ACON on one sort of tensor."""

    kind: str
    shape: tuple[int, ...]
    dtype: str
    layout: str
    threads: int
    passes: str
    #: time over SiLU's, by candidate
    ratio: dict[str, float]
    #: bytes kept for backward over those of x, by candidate
    kept: dict[str, float]
    #: of `ours`: bytes moved a second, counting two passes over x forward and five forward + backward, in 1e9
    gigabytes: float
    #: of a plain copy, two passes
    copy_gigabytes: float


def measure(
    kinds: Sequence[str],
    shapes: Sequence[tuple[int, ...]],
    dtypes: Sequence[torch.dtype],
    layouts: Sequence[str],
    threads: Sequence[int],
    device: torch.device,
    peers: Sequence[str],
    seconds: float,
) -> Iterator[Case]:
    """The cases of all combinations, one by one.

    Args:
        peers: of :data:`PEERS`; SiLU and ours are always there.
        seconds: to measure each.
    """
    for count in threads:
        torch.set_num_threads(count)
        for dtype in dtypes:
            for layout in layouts:
                for shape in shapes:
                    for kind in kinds:
                        yield from _cases(kind, shape, dtype, layout, count, device, peers, seconds)


def _cases(kind, shape, dtype, layout, threads, device, peers, seconds) -> Iterator[Case]:
    torch.manual_seed(0)
    # Each case is compiled by itself: dynamo stops compiling a function after a few shapes.
    torch.compiler.reset()
    candidates = _candidates(kind, shape[1], peers, device)
    x = torch.randn(shape, device=device).to(dtype)
    if layout == "channels_last":
        x = x.to(memory_format=torch.channels_last)
    x.requires_grad_()
    grad = torch.randn_like(x)
    size = x.numel() * x.element_size()
    kept = {
        name: kept_bytes(module, x, [*module.parameters(), *module.buffers()]) / size
        for name, module in candidates.items()
        if name != "compile"
    }
    inputs = [x.detach(), grad]
    for passes, run in (("forward", _forward), ("forward + backward", _forward_backward)):
        calls = {name: run(module, x, grad) for name, module in candidates.items()}
        calls["copy"] = _copy(x)
        times = interleaved(calls, seconds, device, inputs=inputs[:1] if run is _forward else inputs)
        yield Case(
            kind=kind,
            shape=tuple(shape),
            dtype=str(dtype).removeprefix("torch."),
            layout=layout,
            threads=threads,
            passes=passes,
            ratio=ratios(times, PEER),
            kept=kept,
            gigabytes=(2 if run is _forward else 5) * size / median(times["ours"]) / 1e9,
            copy_gigabytes=2 * size / median(times["copy"]) / 1e9,
        )


def _candidates(kind: str, channels: int, peers: Sequence[str], device: torch.device) -> dict[str, nn.Module]:
    name, _, variant = kind.partition(" ")
    forms = FORMS[name]
    options = dict(norm_cfg=None) if variant else {}
    ours = forms["ours"](channels, init="paper", **options)
    modules: dict[str, nn.Module] = {PEER: nn.SiLU(), "ours": ours}
    for peer in peers:
        if peer == "ReLU":
            modules[peer] = nn.ReLU()
        elif peer == "compile":
            modules[peer] = torch.compile(_same(forms["yolov5"], ours, channels, options))
        else:
            modules[peer] = _same(forms[peer], ours, channels, options)
    return {key: module.to(device) for key, module in modules.items()}


def _same(form: type[nn.Module], ours: nn.Module, channels: int, options: dict) -> nn.Module:
    module = form(channels, init="paper", **options)
    module.load_state_dict(copy.deepcopy(ours.state_dict()))
    return module


def _copy(x: Tensor) -> Callable[[], object]:
    source, target = x.detach(), torch.empty_like(x, requires_grad=False)
    return lambda: target.copy_(source)


def _forward(module: nn.Module, x: Tensor, grad: Tensor) -> Callable[[], object]:
    source = x.detach()

    def run() -> None:
        with torch.no_grad():
            module(source)

    return run


def _forward_backward(module: nn.Module, x: Tensor, grad: Tensor) -> Callable[[], object]:
    parameters = list(module.parameters())

    def run() -> None:
        x.grad = None
        for parameter in parameters:
            parameter.grad = None
        module(x).backward(grad)

    return run
