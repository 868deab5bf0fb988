"""Ways in which users write networks that are converted whole. test_ways_refused.py has the others."""

import copy
import importlib
import sys
from enum import Enum
from functools import partial, reduce
from itertools import chain

import pytest
import torch
from mmcv.cnn import ConvModule
from mmengine.config import ConfigDict
from torch import nn
from torch.nn import functional as F

import acon_mm
from acon_mm.convert.reading import statements
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


class Held(Two):
    """Attributes hold its methods, and its class one of them by its name."""

    def __init__(self):
        super().__init__()
        self.steps = {"first": self.first, "others": [(self.second,)]}
        self.forward = self.by_steps

    def first(self, x):
        return F.relu(self.a(x))

    def second(self, x):
        return Held.last(self, F.relu(self.b(x)))

    def last(self, x):
        return F.silu(x - 1)

    def by_steps(self, x):
        return self.steps["others"][0][0](self.steps["first"](x))


def then_back(self, x):
    return self.back(self.a(x))


class CalledBack(nn.Module):
    """A part of it holds one of its methods."""

    def __init__(self):
        super().__init__()
        self.part = of(Two, then_back)
        self.part.__dict__["back"] = self.activate

    def activate(self, x):
        return F.relu(x)

    def forward(self, x):
        return F.silu(self.part(x) - 1)


def by_dicts(self, x):
    found = dict(a=self.a(x))
    found.update(b=self.b(found["a"]))
    found["c"] = found["b"] - 1
    self.features.clear()
    for name, y in found.items():
        self.features.append((name, y))
    return sum(self.act(y).mean() for _, y in self.features[:1]) + sum(F.relu(y).mean() for _, y in self.features[1:])


def by_class(self, x):
    return self.__class__.smooth(type(self).smooth(self.a(x)) - 1)


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


def in_place_of_others(self, x):
    one = self.a(x)
    two = self.act(one)
    one = one.clone()
    one += 1
    for _ in range(2):
        break
    else:
        two = F.silu(two)
    two = F.relu(two)
    two[:, 0] = 0
    return two.mul_(one)


def with_helpers(self, x):
    return conv_act(conv_act(x, self.a, self.act), conv=self.b, act=F.gelu)


def conv_act(x, conv, act=None):
    x = conv(x)
    return act(x) if act is not None else x


def from_the_second_call_on(self, x):
    x = F.relu(self.a(x))
    if self.count % 2 == 0:
        x = F.gelu(x)
    self.count += 1
    return x


def by_own_getattr(self, x):
    return F.silu(self.__getattr__("c")(self.__getattr__(self.which)(x)))


class Building(Two):
    """Its method that names an activation is called before it is called itself, and by nothing else."""

    def __init__(self, which):
        super().__init__()
        self.which, self.c = which, self.make()

    def make(self):
        return nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())

    forward = by_own_getattr


def hard_swishes(self, x):
    x = F.relu(self.a(x))
    return x * F.relu6(x + 3.0, inplace=True) / 6 + x * (F.relu6(3 + x) / 6) + F.relu6(x.add(3)) / 6 * x


class Style(Enum):
    HARD, SOFT = 1, 2


def by_options(self, x):
    x = self.a(x)
    if self.options.style == Style.HARD or self.options.get("norm") != nn.BatchNorm2d:
        x = F.elu(x)
    if 0 < self.depth < 2 or any(each > 3 for each in (1, 2)) or sum([self.depth, 1]) ** 2 != 16 or ~self.depth == 3:
        x = F.gelu(x)
    if callable(getattr(self, "nothing", None)) or self.options.last[:2].replace("r", "") != "e" or not sorted(x.shape):
        x = F.mish(x) if self.depth != 3 else x
    return F.relu(x) if self.options.last == "relu" else F.selu(x)


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


def made_inside(self, x):
    return nn.Sequential(self.b, nn.ReLU())(nn.GELU()(self.a(x)))


def channels_first_linear(self, x):
    one, two = self.act(x.permute(0, 2, 3, 1)).split([4, 2], dim=-1)
    return F.silu(one)[..., :2] * two


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
    "methods in attributes": (Held(), 3),
    "a method in an attribute of a part": (CalledBack(), 2),
    "dicts and lists that the source fills": (of(Two, by_dicts, F.silu, features=[]), 2),
    "nested zips": (of(Two, by_nested_zips), 2),
    "chain": (of(Two, by_chain), 2),
    "attributes of the class": (of(Two, by_class, smooth=staticmethod(F.silu)), 2),
    "names made in a loop": (Named(), 4),
    "added lists": (Lists(), 3),
    "other variables change in place": (of(Two, in_place_of_others, nn.ReLU()), 2),
    "helpers with activations as arguments": (of(Two, with_helpers, nn.ReLU()), 2),
    "own __getattr__": (Building("a"), 2),
    "options": (
        of(Two, by_options, depth=3, options=ConfigDict(style=Style.SOFT, norm=nn.BatchNorm2d, last="relu")),
        1,
    ),
    "ends of lists and loops": (of(Two, with_ends, options=dict(first="hard", other=1, last=2)), 2),
    "made inside": (of(Two, made_inside), 2),
    "parts of a Linear's output": (of(Two, channels_first_linear, nn.Linear(3, 6)), 1),
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


MATCH = """
import enum
import torch.nn.functional as F

Style = enum.Enum("Style", "SOFT HARD")

def forward(self, x):
    match self.style, x.dim():
        case (Style.SOFT, _):
            x = F.silu(self.a(x))
    match self.style:
        case Style.HARD:
            x = F.gelu(x)
        case Style.SOFT | None:
            return F.relu(self.b(x))
    return F.elu(x)
"""


@pytest.mark.skipif(sys.version_info < (3, 10), reason="the match statement is of Python 3.10")
def test_match(tmp_path, monkeypatch):
    (tmp_path / "matching.py").write_text(MATCH)
    monkeypatch.syspath_prepend(tmp_path)
    matching = importlib.import_module("matching")
    model = of(Two, matching.forward, style=matching.Style.SOFT)
    acon_mm.convert_activations(model, ACON)
    with ActivationTrace(model) as trace:
        model(torch.randn(2, 3, 4, 4))
    assert not trace.calls and trace.acons == {"act1", "act2"} == set(acons(model))


def test_what_the_source_counts_is_another_number_later():
    model = of(Two, from_the_second_call_on, count=1)
    acon_mm.convert_activations(model, ACON)
    with ActivationTrace(model) as trace:
        for _ in range(2):
            model(torch.randn(2, 3, 4, 4))
    assert not trace.calls and trace.acons == set(acons(model)) == {"act1", "act2"}


def test_long_lists(monkeypatch):
    monkeypatch.setattr(statements, "MAX_ITERATIONS", 1)
    model = copy.deepcopy(CONVERTED["chain"][0])
    assert acon_mm.convert_activations(model, ACON).converted == ["acts.0", "acts.1"]


def test_layers_of_pytorch_that_activate_inside_are_kept():
    encoder = nn.TransformerEncoderLayer(4, 2, 8, activation=nn.ReLU())
    model = nn.Sequential(
        nn.TransformerEncoder(encoder, 1, enable_nested_tensor=False),
        nn.Linear(4, 4),
        nn.ReLU(),
        nn.RNNCell(4, 4, nonlinearity="relu"),
    )
    report = acon_mm.convert_activations(model, ACON)
    reason = "a layer of PyTorch's own computes it together with other things"
    assert report.converted == ["2"] and report.kept == {"0.layers.0.activation": reason, "3.nonlinearity": reason}


def test_sigmoids_in_pieces_are_kept():
    model = of(Two, hard_swishes)
    report = acon_mm.convert_activations(model, ACON)
    assert report.converted == ["act_"] and all("a gate" in reason for reason in report.kept.values())
    assert list(report.kept) == ["F.relu6(x + 3.0, inplace=True)", "F.relu6(3 + x)", "F.relu6(x.add(3))"]


class Distilled(Two):
    """It hides its teacher, which is not trained."""

    def __init__(self):
        super().__init__()
        self.__dict__["teacher"] = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())

    def forward(self, x):
        return F.relu(self.a(x)) - self.teacher(x)


def test_a_hidden_teacher_stays():
    model = Distilled()
    assert acon_mm.convert_activations(model, ACON).converted == ["act_"] and type(model.teacher[1]) is nn.ReLU


class Weighted(Two):
    """A weighted sum, whose weights are made positive by the ReLU that the features have, too."""

    def __init__(self):
        super().__init__(nn.ReLU())
        self.weights, self.more = nn.Parameter(torch.ones(2)), nn.ParameterList([torch.ones(1), torch.ones(1)])

    def forward(self, x):
        weights = self.act(self.weights)
        for weight in self.more:
            x = x * F.relu(weight)
        return self.act(self.a(x)) * weights[0] + F.silu(self.a(x)) * weights[1] + F.elu(self.more[0])


def test_weights_of_a_sum_are_kept():
    model = Weighted()
    report = acon_mm.convert_activations(model, ACON)
    reason = "its input is a parameter or buffer, no feature map"
    assert report.kept == dict.fromkeys(["act", "F.relu(weight)", "F.elu(self.more[0])"], reason)
    assert list(acons(model)) == report.converted == ["act1", "act2"]
    with ActivationTrace(model) as trace:
        model(torch.randn(2, 3, 4, 4))
    assert trace.calls == {"relu in act", "relu in ", "elu in "} and trace.acons == {"act1", "act2"}


def test_new_activations_are_no_layers_of_a_container():
    model = copy.deepcopy(CONVERTED["a list's forward"][0])
    acon_mm.convert_activations(model, dict(type="SiLU"), "all")
    assert len(model) == 3 and [type(layer) for layer in model] == [nn.Conv2d] * 3
    assert [name for name, _ in model.named_children()] == ["0", "1", "2", "act1", "act2"]
    with pytest.raises(RuntimeError, match="cannot compile this ChainOfAList: it would call act1, act2 as one of the"):
        torch.jit.script(model)
