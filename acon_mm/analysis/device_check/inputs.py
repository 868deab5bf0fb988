"""Inputs of the checks: shapes with their channel dimension, layouts and random tensors."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

#: the largest error of x and its gradient, relative to the largest element
TOLERANCE = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2, torch.float64: 1e-10}


class Case(NamedTuple):
    """A shape and the place of the channels."""

    shape: tuple[int, ...]
    channel_dim: int = 1

    @property
    def channels(self) -> int:
        return self.shape[self.channel_dim]


# No two samples: a batch norm over two values magnifies rounding errors.
QUICK_CASES = (
    Case((4, 33, 25, 17)),
    Case((20, 24, 7, 7)),
    Case((3, 64, 1, 1)),
    Case((9, 48)),
    Case((4, 50, 40), -1),
    Case((1, 5, 3, 5)),
)
CASES = (
    *QUICK_CASES,
    Case((4, 32, 56, 56)),
    Case((4, 128, 25, 25)),
    Case((100, 32, 14, 14)),
    Case((4, 1024, 7, 7)),
    Case((300, 256)),
    Case((4, 99, 384), -1),
    Case((4, 19, 501)),
    Case((4, 12, 4, 9, 9)),
    Case((4, 7, 6, 33), -1),
    Case((5, 1, 9, 9)),
    Case((4, 8, 1, 1025)),
)
EMPTY_CASES = (
    Case((0, 8, 4, 4)),
    Case((2, 8, 0, 4)),
    Case((2, 8, 4, 0)),
    Case((0, 8)),
    Case((0, 6, 8), -1),
    Case((2, 0, 8), -1),
    Case((0, 8, 0, 0)),
    Case((0, 8, 3, 4, 4)),
)


# Enough for each block of a GPU to have more than one part.
LARGE_CASES = (Case((8, 64, 112, 112)), Case((20000, 256)))


def cases(quick: bool, on_gpu: bool) -> tuple[Case, ...]:
    return QUICK_CASES if quick else (*CASES, *LARGE_CASES) if on_gpu else CASES


def channels_last_of(x: Tensor) -> torch.memory_format:
    return torch.channels_last if x.dim() == 4 else torch.channels_last_3d


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=channels_last_of(x))


def _strided(x: Tensor) -> Tensor:
    return torch.stack((x, x), dim=-1)[..., 0]


def _offset(x: Tensor) -> Tensor:
    """The same values at an address that is a multiple of the element only."""
    return torch.cat((x.new_zeros(1), x.flatten()))[1:].view(x.shape)


def _part_of_channels(x: Tensor) -> Tensor:
    """The same values as a part of the channels of a larger tensor."""
    return torch.cat((x[:, :1], x, x[:, :1]), 1)[:, 1:-1]


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "channels_last": _channels_last,
    "strided": _strided,
    "offset": _offset,
    "part of channels": _part_of_channels,
}


def layouts_of(case: Case, quick: bool) -> Iterator[str]:
    """The layouts that a tensor of this shape can have."""
    for name in LAYOUTS:
        if name == "channels_last" and (len(case.shape) not in (4, 5) or case.channel_dim != 1):
            continue
        if quick and name == "part of channels":
            continue
        yield name


def random(case: Case, dtype: torch.dtype, device: torch.device, layout: str = "contiguous") -> Tensor:
    """Random x. The means of its planes differ, or a batch norm behind the mean would magnify rounding errors."""
    planes = [n if d in (0, case.channel_dim % len(case.shape)) else 1 for d, n in enumerate(case.shape)]
    x = torch.randn(case.shape, device=device) + torch.randn(planes, device=device)
    return LAYOUTS[layout](x.to(dtype))
