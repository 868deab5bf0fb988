"""Methods that call other modules in place of their activations, and are otherwise unchanged."""

import inspect
import traceback

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from acon_mm.convert.rewrite import rewrite


class Base(nn.Module):
    def forward(self, x):
        return x + 1


class Net(Base):
    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()
        self.acts = nn.ModuleList([nn.Tanh(), nn.Sigmoid()])

    def forward(self, x, scale: "no such name" = 2.0):  # noqa: F722
        def inner(x):
            return self.relu(self.relu(x) - 1)

        x = F.relu(inner(super().forward(x)), inplace=True)
        for i in range(2):  # noqa: B007
            x = F.relu_(x)
        return self.relu(x) * scale

    @staticmethod
    def decorated(x):
        return F.relu(x)

    def fails(self, x):
        x = self.relu(x)

        raise RuntimeError("here")


def rewritten(name, calls):
    method = rewrite(getattr(Net, name), calls)
    return type("Net", (Net,), {name: method})()


def test_each_call_in_the_order_of_evaluation():
    net = rewritten("forward", ["torch.neg", "torch.exp", "torch.sin", "self.acts[i]", None])
    net.relu = nn.Softplus()
    x = torch.linspace(-2, 2, 5)
    expected = torch.sigmoid(torch.tanh(torch.sin(torch.exp(-(x + 1) - 1))))
    torch.testing.assert_close(net(x), F.softplus(expected) * 2)
    torch.testing.assert_close(net(x, scale=3.0), F.softplus(expected) * 3)


def test_the_method_itself_is_unchanged():
    x = torch.linspace(-2, 2, 5)
    before = Net()(x)
    rewritten("forward", ["torch.neg"] * 5)
    torch.testing.assert_close(Net()(x), before, rtol=0, atol=0)


def test_it_keeps_name_file_and_lines():
    net = rewritten("fails", ["torch.neg"])
    try:
        net.fails(torch.zeros(1))
    except RuntimeError as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
    assert (frame.filename, frame.line) == (__file__, 'raise RuntimeError("here")')
    assert net.fails.__qualname__ == "Net.fails"
    assert inspect.signature(net.fails) == inspect.signature(Net().fails)


def test_another_number_of_calls_is_another_version():
    with pytest.raises(ValueError, match=r"\.Net\.forward calls 5 activations, but .* lists 2: install the version"):
        rewrite(Net.forward, ["self.act1", "self.act2"])


def test_what_cannot_be_compiled_on_its_own():
    with pytest.raises(ValueError, match=r"Net\.decorated cannot be compiled on its own, because it has a decorator"):
        rewrite(Net.decorated, ["torch.neg"])
    outside = nn.ReLU()

    class Closed(nn.Module):
        def forward(self, x):
            return F.relu(outside(x))

    with pytest.raises(ValueError, match=r"Closed\.forward cannot be compiled on its own, .* \['outside'\]"):
        rewrite(Closed.forward, ["torch.neg"])


def test_under_torch_compile():
    net = rewritten("forward", ["torch.neg", "torch.exp", "torch.sin", "self.acts[i]", "torch.abs"])
    x = torch.linspace(-2, 2, 5)
    torch.testing.assert_close(torch.compile(net, backend="eager", fullgraph=True)(x), net(x))
