"""Ways in which users write networks: converted whole, or refused in one line that says why."""

import copy
from functools import partial, reduce

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import acon_mm
from acon_mm.convert import NoActivationsError
from helpers.act_trace import ActivationTrace, acons
from helpers.own_kinds import convert_to_own_kinds

ACON = dict(type="AconC", init="paper")


class Two(nn.Module):
    """Two convolutions of different widths."""

    def __init__(self, act=None):
        super().__init__()
        self.a, self.b, self.act = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 1), act


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleDict(dict(a=nn.Conv2d(3, 4, 1), b=nn.ReLU(), c=nn.Conv2d(4, 6, 1), d=nn.SiLU()))


def outside(x):
    return F.relu(x)


def outside_and_more(x):
    return F.relu(x) + 1


def other_forward(self, x):
    return F.relu(self.b(F.gelu(self.a(x))))


def of(base, forward, *args, **methods):
    """A module of a subclass that has this forward."""
    return type("Network", (base,), dict(forward=forward, **methods))(*args)


def by_act(self, x):
    return self.act(self.b(self.act(self.a(x))))


def by_operator(self, x):
    return torch.ops.aten.relu.default(self.b(torch.ops.aten.gelu(self.a(x), approximate="tanh")))


def by_keyword(self, x):
    return self.act(input=self.a(x))


def in_place(self, x):
    x = self.a(x)
    self.act(x)
    return x


def dunder(self, x):
    return self.act.__call__(self.a(x))


def partial_inside(self, x):
    act = partial(F.leaky_relu, negative_slope=0.3)
    return act(self.b(act(self.a(x))))


def inner_default(self, x):
    def inner(conv, x, act=F.relu):
        return act(conv(x))

    return inner(self.a, x)


def by_items(self, x):
    for _, layer in self.layers.items():
        x = layer(x)
    return x


def by_children(self, x):
    for layer in self.layers.children():
        x = layer(x)
    return x


def by_while(self, x):
    i = 0
    while i < len(self.layers):
        x, i = self.layers["abcd"[i]](x), i + 1
    return x


def by_reduce(self, x):
    return reduce(lambda y, layer: layer(y), self.layers.values(), x)


def tokens(self, x):
    x = self.a(x)
    shape = x.shape
    return F.relu(x.view(*shape[:2], -1).permute(0, 2, 1)).permute(0, 2, 1).reshape(shape)


def chunks(self, x):
    one, two = self.b(self.a(x)).chunk(2, dim=1)
    return F.silu(one) * two


class Chain(nn.Sequential):
    def forward(self, x):
        return F.relu(super().forward(x) - 1)


CONVERTED = {
    "operators": (of(Two, by_operator), 2),
    "a lambda": (of(Two, by_act, lambda x: F.leaky_relu(x, 0.1)), 2),
    "a function outside": (of(Two, by_act, outside), 2),
    "a partial": (of(Two, by_act, partial(F.elu, alpha=0.5)), 2),
    "a partial inside": (of(Two, partial_inside), 2),
    "a keyword": (of(Two, by_keyword, nn.ReLU()), 1),
    "in place": (of(Two, in_place, nn.ReLU(inplace=True)), 1),
    "__call__": (of(Two, dunder, nn.ReLU()), 1),
    "default of an inner function": (of(Two, inner_default), 1),
    "forward of another name": (of(Two, other_forward), 2),
    "items": (of(Layers, by_items), 2),
    "children": (of(Layers, by_children), 2),
    "while": (of(Layers, by_while), 2),
    "reduce": (of(Layers, by_reduce), 2),
    "tokens of a view": (of(Two, tokens), 1),
    "chunks": (of(Two, chunks), 1),
    "a Sequential's forward": (Chain(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 6, 1), nn.ReLU()), 3),
}


@pytest.mark.parametrize("way", CONVERTED)
def test_converted(way):
    torch.manual_seed(0)
    original, x = copy.deepcopy(CONVERTED[way][0]).eval(), torch.randn(2, 3, 4, 4)
    model = copy.deepcopy(original)
    report = acon_mm.convert_activations(model, ACON, "all")
    assert len(report.converted) == len(acons(model)) == CONVERTED[way][1] and not report.kept
    with ActivationTrace(model) as trace:
        output = model(x.clone())
    assert trace.calls == set() and trace.acons == set(acons(model))
    output.square().mean().backward()
    assert all(parameter.grad is not None for acon in acons(model).values() for parameter in acon.parameters())
    again = convert_to_own_kinds(copy.deepcopy(original))
    torch.testing.assert_close(again(x.clone()), original(x.clone()), rtol=0, atol=0)


def default_of_forward(self, x, act=F.relu):
    return act(self.a(x))


class Held(Two):
    """It keeps its methods in a list, which would keep their present code."""

    def __init__(self):
        super().__init__()
        self.steps = [self.first, self.second]

    def first(self, x):
        return F.relu(self.a(x))

    def second(self, x):
        return F.relu(self.b(x))

    def forward(self, x):
        for step in self.steps:
            x = step(x)
        return x


class ForwardOnTheModule(Two):
    def __init__(self):
        super().__init__()
        self.forward = partial(ForwardOnTheModule.other, self)

    def other(self, x):
        return F.relu(self.a(x))


class OfTheClass(Two):
    @classmethod
    def activate(cls, x):
        return F.relu(x)

    def forward(self, x):
        return self.activate(self.a(x)) - 1


class ByReference(Two):
    """One activation, which several layers call in ways that only a run tells."""

    def __init__(self):
        super().__init__()
        act = nn.ReLU()
        self.layers = nn.ModuleList([nn.Conv2d(3, 4, 1), act, nn.Conv2d(4, 4, 1), act])

    def forward(self, x):
        i = 0
        while i < 4:
            x, i = self.layers[i](x), i + 1
        return x


def own_slope(self, x):
    return F.prelu(self.a(x), self.act)


REFUSED = {
    "forward's default": (
        of(Two, default_of_forward),
        "it is an argument, for which a caller may give another, at .*line",
    ),
    "held methods": (Held(), r"Held\.first, line \d+ is held by the module as an attribute"),
    "forward on the module": (ForwardOnTheModule(), r"the source of ForwardOnTheModule\.forward cannot be read"),
    "compiled": (
        nn.Sequential(torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()))),
        "it is compiled: convert it before torch.jit",
    ),
    "a class method": (OfTheClass(), r"a function outside of the class calls it, at \S+activate"),
    "a function that does more": (of(Two, by_act, outside_and_more), "a function outside of the class calls it"),
    "its own slope": (of(Two, own_slope, nn.Parameter(torch.ones(1))), "its slope is a parameter of its own"),
}


@pytest.mark.parametrize("way", REFUSED)
def test_refused(way):
    model, message = copy.deepcopy(REFUSED[way][0]), REFUSED[way][1]
    before = type(model), [*model.named_modules()], [*model.named_parameters()], sorted(vars(model))
    with pytest.raises((ValueError, NoActivationsError), match=message):
        acon_mm.convert_activations(model, ACON, "all")
    assert (type(model), [*model.named_modules()], [*model.named_parameters()], sorted(vars(model))) == before
