"""A batch norm and the ACON after it, and whether both give the same as one by one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from acon_mm import AconA, AconB, AconC, MetaAconC
from acon_mm.compat import strict_zip
from acon_mm.layers import Acon
from acon_mm.ops.memory import keep_outputs
from helpers.recomputation import NORMS, C, gradients

ACTS: dict[str, Callable[..., Acon]] = {
    "AconA": AconA,
    "AconB": AconB,
    "AconC": partial(AconC, init="paper"),
    "MetaAconC": partial(MetaAconC, init="paper"),
    "MetaAconC no norm": partial(MetaAconC, init="paper", norm_cfg=None),
}


class Block(nn.Module):
    """Convolution, norm and activation, and a convolution that keeps their result."""

    def __init__(self, norm: str = "training", act: str = "AconC", **options):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, C, 3, padding=1, bias=False)
        self.norm = NORMS[norm]()
        self.act = ACTS[act](C, **{"inplace": True, **options})
        self.last = nn.Conv2d(C, C, 3, padding=1)
        for name, value in self.norm.state_dict().items():
            if value.dtype.is_floating_point:
                nn.init.uniform_(value, 0.5, 1.5) if name in ("weight", "running_var") else nn.init.normal_(value)
        #: of the last call: whether norm and activation were one
        self.is_one = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        place = x.data_ptr()
        x = self.act(x)
        self.is_one = x.data_ptr() == place
        return self.last(x)


def assert_same_one_by_one(net: nn.Module, x: Tensor, forward: Callable | None = None, tolerance: float = 2e-6) -> None:
    """The gradients, relative to the greatest value of all; and what the step leaves in the buffers."""
    start = copy.deepcopy(net.state_dict())
    with keep_outputs():
        wanted = gradients(net, x, forward)
    assert not getattr(net, "is_one", False)
    state = copy.deepcopy(net.state_dict())
    net.load_state_dict(start)
    found = gradients(net, x, forward)
    greatest = max(b.abs().max() for b in wanted)
    for a, b in strict_zip(found, wanted):
        assert (a - b).abs().max() <= tolerance * greatest
    for name, value in net.state_dict().items():
        assert torch.allclose(value, state[name], rtol=1e-4, atol=1e-6), name
