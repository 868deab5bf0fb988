"""Layers in lists and loops: each way of writing them is converted."""

import copy
from functools import reduce
from itertools import chain

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import acon_mm
from acon_mm.convert.reading import statements
from helpers.ways import ACON, Two, assert_all_converted, of


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleDict(dict(a=nn.Conv2d(3, 4, 1), b=nn.ReLU(), c=nn.Conv2d(4, 6, 1), d=nn.SiLU()))


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


def chunks(self, x):
    one, two = self.b(self.a(x)).chunk(2, dim=1)
    return F.silu(one) * two


def by_functions(self, x):
    return sum(act(self.a(x)) for act in (F.relu, F.silu))


class Chain(nn.Sequential):
    """It has other values before its own activation, so it would be seen that it is not one of its layers."""

    def forward(self, x):
        return F.relu(super().forward(x)[:, :1] - 1)


class ChainOfAList(nn.ModuleList):
    def forward(self, x):
        for layer in self:
            x = F.relu(layer(x))
        return F.silu(self[-1](x.repeat(1, 2, 1, 1)))


def by_dicts(self, x):
    found = dict(a=self.a(x))
    found.update(b=self.b(found["a"]))
    found["c"] = found["b"] - 1
    self.features.clear()
    for name, y in found.items():
        self.features.append((name, y))
    return sum(self.act(y).mean() for _, y in self.features[:1]) + sum(F.relu(y).mean() for _, y in self.features[1:])


def by_nested_zips(self, x):
    for i, (conv, (act, factor)) in enumerate(zip((self.a, self.b), zip((F.relu, F.silu), (1, 2)))):
        x = act(conv(x)) * factor + i
    return x


def by_chain(self, x):
    for layer in chain([self.a], [self.b]):
        x = F.relu(layer(x))
    return x


def by_names_of_a_loop(network, x):
    for i in range(2):
        name = "ab"[i]
        x = F.relu(getattr(network, name)(x))
    for name in ("c", "d"):
        x = F.silu(network.layers.get_submodule(name)(network.layers[name](x)))
    return x


def with_ends(self, x):
    first, *_, last = self.options.items()
    n = 2
    while n:
        x, n = self.a(x)[:, :3], n - 1
    else:
        x = F.silu(x)
    if torch.jit.is_scripting():
        return x
    return F.relu(x) if first[1] == "hard" and last[0] == "last" else F.elu(x)


class Named(Two):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleDict(dict(c=nn.Conv2d(6, 6, 1), d=nn.Conv2d(6, 6, 1)))

    forward = by_names_of_a_loop


class Lists(nn.Module):
    """One of the lists has a gap."""

    def __init__(self):
        super().__init__()
        self.lists = nn.ModuleList([nn.ModuleList([nn.Conv2d(3, 4, 1)]), nn.ModuleList([None, nn.Conv2d(4, 5, 1)])])

    def forward(self, x):
        for layer in self.lists[0] + self.lists[1]:
            if layer is not None:
                x = F.relu(layer(x))
        return F.silu(self.lists[1][1](x[:, :4]))


CONVERTED = {
    "dicts and lists that the source fills": (of(Two, by_dicts, F.silu, features=[]), 2),
    "nested zips": (of(Two, by_nested_zips), 2),
    "chain": (of(Two, by_chain), 2),
    "names made in a loop": (Named(), 4),
    "added lists": (Lists(), 3),
    "ends of lists and loops": (of(Two, with_ends, options=dict(first="hard", other=1, last=2)), 2),
    "a loop over functions": (of(Two, by_functions), 2),
    "a Sequential's forward": (Chain(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 6, 1)), 2),
    "a list's forward": (ChainOfAList([nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 1), nn.Conv2d(6, 3, 1)]), 4),
    "items": (of(Layers, by_items), 2),
    "children": (of(Layers, by_children), 2),
    "while": (of(Layers, by_while), 2),
    "reduce": (of(Layers, by_reduce), 2),
    "chunks": (of(Two, chunks), 1),
}


@pytest.mark.parametrize("way", CONVERTED)
def test_converted(way):
    assert_all_converted(*CONVERTED[way])


def test_long_lists(monkeypatch):
    monkeypatch.setattr(statements, "MAX_ITERATIONS", 1)
    model = copy.deepcopy(CONVERTED["chain"][0])
    assert acon_mm.convert_activations(model, ACON).converted == ["acts.0", "acts.1"]


def test_new_activations_are_no_layers_of_a_container():
    model = copy.deepcopy(CONVERTED["a list's forward"][0])
    acon_mm.convert_activations(model, dict(type="SiLU"), "all")
    assert len(model) == 3 and [type(layer) for layer in model] == [nn.Conv2d] * 3
    assert [name for name, _ in model.named_children()] == ["0", "1", "2", "act1", "act2"]
    with pytest.raises(RuntimeError, match="cannot compile this ChainOfAList: it would call act1, act2 as one of the"):
        torch.jit.script(model)
