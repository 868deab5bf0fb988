"""A picture and the gradients of a step, for the tests of what backward makes again."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from acon_mm.ops.memory import recompute_outputs

C, SIZE = 16, 64  # 2x16x64x64 in float32 are 512 KiB

#: batch norms whose output can be made again, by name
NORMS: dict[str, Callable[[], nn.Module]] = {
    "training": lambda: nn.BatchNorm2d(C),
    "evaluation": lambda: nn.BatchNorm2d(C).eval(),
    "without weights": lambda: nn.BatchNorm2d(C, affine=False),
    "without running statistics": lambda: nn.BatchNorm2d(C, track_running_stats=False),
    "large eps": lambda: nn.BatchNorm2d(C, eps=0.1),
}


def picture(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 3, SIZE, SIZE, dtype=dtype)


def gradients(net: nn.Module, x: torch.Tensor, forward: Callable | None = None) -> list[torch.Tensor]:
    """The gradients of all parameters after a step, and of x."""
    x = x.clone().requires_grad_()
    net.zero_grad()
    loss = (forward or net)(x).float().square().mean()
    recompute_outputs(loss)
    loss.backward()
    assert x.grad is not None
    return [x.grad, *(p.grad.clone() for p in net.parameters() if p.grad is not None)]
