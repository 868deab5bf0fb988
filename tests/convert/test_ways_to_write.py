"""Ways in which users write networks that are converted whole. test_ways_refused.py has the others."""

import copy
from functools import partial, reduce

import pytest
import torch
from mmcv.cnn import ConvModule
from torch import nn
from torch.nn import functional as F

import acon_mm
from helpers.act_trace import ActivationTrace, acons
from helpers.own_kinds import convert_to_own_kinds
from helpers.ways import ACON, Two, by_act, by_operator, of


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleDict(dict(a=nn.Conv2d(3, 4, 1), b=nn.ReLU(), c=nn.Conv2d(4, 6, 1), d=nn.SiLU()))


def outside(x):
    return F.relu(x)


def other_forward(self, x):
    return F.relu(self.b(F.gelu(self.a(x))))


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


def given_closures(self, x):
    return self.run(lambda y: F.relu(self.b(y)), self.run(lambda y: F.relu(self.a(y)), x))


def run(self, step, x):
    return step(x)


def by_functions(self, x):
    return sum(act(self.a(x)) for act in (F.relu, F.silu))


def by_part_of_a_name(self, x, which="one"):
    return getattr(self, f"forward_{which}")(x)


def alias(self, x):
    return F.relu(self.b(F.silu(self.a(x))))


def by_vars(self, x):
    return vars(self)["act"](self.a(x))


def inner_function(self, x):
    return torch._C._nn.silu(self.a(x))


def of_module(module, x):
    return module.act(module.a(x))


def by_module(self, x):
    return of_module(self, x)


class SubConvModule(ConvModule):
    """The loop of ConvModule's own forward calls its activation before and after the convolution, as it is read."""

    def forward(self, x, activate=True, norm=True):
        return super().forward(x, activate, norm) + F.relu(self.conv(x) - 1)


class Chain(nn.Sequential):
    """It has other values before its own activation, so it would be seen that it is not one of its layers."""

    def forward(self, x):
        return F.relu(super().forward(x)[:, :1] - 1)


class ChainOfAList(nn.ModuleList):
    def forward(self, x):
        for layer in self:
            x = F.relu(layer(x))
        return F.silu(self[-1](x.repeat(1, 2, 1, 1)))


class Called(Two):
    def __call__(self, x):
        return F.relu(self.a(x))


def by_threshold(self, x):
    return self.act(self.b(F.threshold(self.a(x), 0.0, 0.0)))


CONVERTED = {
    "thresholds": (of(Two, by_threshold, nn.Threshold(0.0, 0.0)), 2),
    "closures given to a method": (of(Two, given_closures, run=run), 2),
    "a loop over functions": (of(Two, by_functions), 2),
    "methods by a part of their name": (of(Two, by_part_of_a_name, forward_one=alias), 2),
    "two names of a method": (of(Two, alias, other=alias), 2),
    "a function of the module": (of(Two, by_module, nn.ReLU()), 1),
    "a Sequential's forward": (Chain(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 6, 1)), 2),
    "a list's forward": (ChainOfAList([nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 1), nn.Conv2d(6, 3, 1)]), 4),
    "vars": (of(Two, by_vars, F.relu), 1),
    "a subclass of ConvModule": (SubConvModule(3, 4, 1), 2),
    "own __call__": (Called(), 1),
    "a function of torch._C": (of(Two, inner_function), 1),
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


def test_new_activations_are_no_layers_of_a_container():
    model = copy.deepcopy(CONVERTED["a list's forward"][0])
    acon_mm.convert_activations(model, dict(type="SiLU"), "all")
    assert len(model) == 3 and [type(layer) for layer in model] == [nn.Conv2d] * 3
    assert [name for name, _ in model.named_children()] == ["0", "1", "2", "act1", "act2"]
    with pytest.raises(RuntimeError, match="cannot compile this ChainOfAList: it would call act1, act2 as one of the"):
        torch.jit.script(model)
