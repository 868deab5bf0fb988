"""Networks that are written in one way or another, for the tests of what is converted and what is refused."""

import copy

import torch
from torch import nn

import acon_mm
from helpers.act_trace import ActivationTrace, acons
from helpers.own_kinds import convert_to_own_kinds

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


def assert_all_converted(network, count):
    """Each activation becomes an ACON that is called and learns; with its own kind again, the output is the same."""
    torch.manual_seed(0)
    original, x = copy.deepcopy(network).eval(), torch.randn(2, 3, 4, 4)
    model = copy.deepcopy(original)
    report = acon_mm.convert_activations(model, ACON, "all")
    assert len(report.converted) == len(acons(model)) == count and not report.kept
    with ActivationTrace(model) as trace:
        output = model(x.clone())
    assert trace.calls == set() and trace.acons == set(acons(model))
    output.square().mean().backward()
    assert all(parameter.grad is not None for acon in acons(model).values() for parameter in acon.parameters())
    again = convert_to_own_kinds(copy.deepcopy(original))
    torch.testing.assert_close(again(x.clone()), original(x.clone()), rtol=0, atol=0)
