"""Networks that are written in one way or another, for the tests of what is converted and what is refused."""

import torch
from torch import nn

ACON = dict(type="AconC", init="paper")


class Two(nn.Module):
    """Two convolutions of different widths."""

    def __init__(self, act=None):
        super().__init__()
        self.a, self.b, self.act = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 1), act


def of(base, forward, *args, **methods):
    """A module of a subclass that has this forward."""
    return type("Network", (base,), dict(forward=forward, **methods))(*args)


def by_act(self, x):
    return self.act(self.b(self.act(self.a(x))))


def by_operator(self, x):
    return torch.ops.aten.relu.default(self.b(torch.ops.aten.gelu(self.a(x), approximate="tanh")))
