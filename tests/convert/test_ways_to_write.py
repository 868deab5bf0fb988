"""Ways in which users write networks that are converted whole. test_ways_refused.py has the others."""

import importlib
import sys
from enum import Enum
from functools import partial

import pytest
import torch
from mmcv.cnn import ConvModule
from mmengine.config import ConfigDict
from torch import nn
from torch.nn import functional as F

import acon_mm
from helpers.act_trace import ActivationTrace, acons
from helpers.ways import ACON, Two, assert_all_converted, by_act, by_operator, of


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


def tokens(self, x):
    x = self.a(x)
    shape = x.shape
    return F.relu(x.view(*shape[:2], -1).permute(0, 2, 1)).permute(0, 2, 1).reshape(shape)


def given_closures(self, x):
    return self.run(lambda y: F.relu(self.b(y)), self.run(lambda y: F.relu(self.a(y)), x))


def run(self, step, x):
    return step(x)


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


def by_class(self, x):
    return self.__class__.smooth(type(self).smooth(self.a(x)) - 1)


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


def made_inside(self, x):
    return nn.Sequential(self.b, nn.ReLU())(nn.GELU()(self.a(x)))


def channels_first_linear(self, x):
    one, two = self.act(x.permute(0, 2, 3, 1)).split([4, 2], dim=-1)
    return F.silu(one)[..., :2] * two


CONVERTED = {
    "methods in attributes": (Held(), 3),
    "a method in an attribute of a part": (CalledBack(), 2),
    "attributes of the class": (of(Two, by_class, smooth=staticmethod(F.silu)), 2),
    "other variables change in place": (of(Two, in_place_of_others, nn.ReLU()), 2),
    "helpers with activations as arguments": (of(Two, with_helpers, nn.ReLU()), 2),
    "own __getattr__": (Building("a"), 2),
    "options": (
        of(Two, by_options, depth=3, options=ConfigDict(style=Style.SOFT, norm=nn.BatchNorm2d, last="relu")),
        1,
    ),
    "made inside": (of(Two, made_inside), 2),
    "parts of a Linear's output": (of(Two, channels_first_linear, nn.Linear(3, 6)), 1),
    "thresholds": (of(Two, by_threshold, nn.Threshold(0.0, 0.0)), 2),
    "closures given to a method": (of(Two, given_closures, run=run), 2),
    "methods by a part of their name": (of(Two, by_part_of_a_name, forward_one=alias), 2),
    "two names of a method": (of(Two, alias, other=alias), 2),
    "a function of the module": (of(Two, by_module, nn.ReLU()), 1),
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
    "tokens of a view": (of(Two, tokens), 1),
}


@pytest.mark.parametrize("way", CONVERTED)
def test_converted(way):
    assert_all_converted(*CONVERTED[way])


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
