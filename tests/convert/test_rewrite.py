"""Methods that call other modules in place of their activations, and are otherwise unchanged."""

import inspect
import traceback

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from acon_mm.compat import strict_zip
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


def test_it_keeps_name_and_lines():
    net = rewritten("fails", ["torch.neg"])
    try:
        net.fails(torch.zeros(1))
    except RuntimeError as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
    assert __file__ in frame.filename
    assert (frame.lineno, frame.line) == (Net.fails.__code__.co_firstlineno + 3, 'raise RuntimeError("here")')
    assert net.fails.__qualname__ == "Net.fails"
    assert inspect.signature(net.fails) == inspect.signature(Net().fails)


def test_another_number_of_calls_is_another_version():
    with pytest.raises(ValueError, match=r"\.Net\.forward calls 5 activations, but .* lists 2: install the version"):
        rewrite(Net.forward, ["self.act1", "self.act2"])


def test_what_runs_is_what_is_shown():
    """By inspect, and so by debuggers and torch.jit.script. Comments, lines and all else stay as they are."""
    net = rewritten("forward", ["torch.neg", "torch.exp", "torch.sin", "self.acts[i]", "torch.abs"])
    new, old = inspect.getsource(net.forward).splitlines(), inspect.getsource(Net.forward).splitlines()
    changed = [line.strip() for line, before in strict_zip(new, old) if line != before]
    assert changed == [
        "return torch.exp(torch.neg(x) - 1)",
        "x = torch.sin(inner(super().forward(x)))",
        "x = self.acts[i](x)",
        "return torch.abs(x) * scale",
    ]


def test_decorators_closures_and_private_names():
    offset = torch.tensor(1.0)

    class Closed(Net):
        __secret = 2.0

        @torch.no_grad()
        def forward(self, x):
            return F.relu(x + offset, inplace=True) * self.__secret

    new = type("Closed", (Closed,), {"forward": rewrite(Closed.forward, ["torch.neg"])})()
    x = torch.randn(3, requires_grad=True)
    torch.testing.assert_close(new(x), -(x + 1) * 2)
    assert not new(x).requires_grad


def test_a_decorator_that_is_not_there():
    def local(function):
        return function

    class Decorated(Net):
        @local
        def forward(self, x):
            return F.relu(x)

    with pytest.raises(
        ValueError, match=r"Decorated\.forward cannot be compiled on its own, because it has a decorator"
    ):
        rewrite(Decorated.forward, ["torch.neg"])


def test_under_torch_compile():
    net = rewritten("forward", ["torch.neg", "torch.exp", "torch.sin", "self.acts[i]", "torch.abs"])
    x = torch.linspace(-2, 2, 5)
    torch.testing.assert_close(torch.compile(net, backend="eager", fullgraph=True)(x), net(x))
