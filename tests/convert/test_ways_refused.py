"""Ways in which users write networks that are refused, in one line that says why. The network stays as it is."""

import copy
from functools import partial, partialmethod, singledispatchmethod, wraps
from operator import methodcaller

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import acon_mm
from acon_mm.convert import NoActivationsError
from helpers.act_trace import acons
from helpers.ways import ACON, Two, by_act, by_operator, of


def outside_and_more(x):
    return F.relu(x) + 1


def default_of_forward(self, x, act=F.relu):
    return act(self.a(x))


class PartOfTheClass(Two):
    """Its class holds a method by another, which would keep its present code."""

    def step(self, x, act):
        return F.relu(act(self.a(x)))

    run = partialmethod(step, act=torch.tanh)

    def forward(self, x):
        return self.run(x)


class SeveralMethods(Two):
    def one(self, x):
        return F.relu(self.a(x))

    def two(self, x):
        return F.silu(self.b(x))

    steps = (one, two)

    def forward(self, x):
        for step in self.steps:
            x = step(self, x)
        return x


def one_of_a_list(self, x):
    return self.acts[int(x.mean() > 0)](self.a(x))


def or_another(self, x):
    return (F.relu if x.mean() > 0 else torch.tanh)(self.a(x))


def given_or_relu(self, x, act=None):
    return (act or F.relu)(self.a(x))


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


def own_slope(self, x):
    return F.prelu(self.a(x), self.act)


def over_children(self, x):
    for layer in self.children():
        x = layer(x)
    return F.relu(x)


def by_type(self, x):
    for layer in (self.a, self.act, self.b):
        x = layer(x) * 2 if isinstance(layer, nn.ReLU) else layer(x)
    return x


def by_attribute(self, x):
    return self.act(self.a(x)) * (2 if self.act.inplace else 1)


def activated(method):
    @wraps(method)
    def wrapper(self, x):
        return F.silu(method(self, x))

    return wrapper


def activated_without_wraps(method):
    return lambda self, x: F.silu(method(self, x))


def helper(x):
    return outside_and_more(x)


def by_helper(self, x):
    return F.silu(self.b(helper(self.a(x))))


class Callable:
    def __call__(self, x):
        return F.relu(x) + 1


class Object:
    """No module, but it holds one."""

    def __init__(self):
        self.r = nn.ReLU()

    def run(self, x):
        return self.r(x)


def by_object(self, x):
    return F.silu(self.b(self.act.run(self.a(x))))


def overwritten(self, x):
    x = self.a(x)
    x += self.act(x)
    return x


def partly_overwritten(self, x):
    x = self.a(x)
    x[:, :2] = F.relu(x[:, :2])
    return x


def added_by_a_method(self, x):
    x = self.a(x)
    return x.add_(F.relu(x))


def changed_later(self, x):
    x = y = self.a(x)
    if x.mean() > 0:
        y = F.relu(x)
    x *= 2
    return y + x


def other_in_evaluation(self, x):
    if self.training:
        return F.relu(self.a(x))
    return F.relu(self.a(x))


def other_in_exports(self, x):
    return F.relu(self.a(x)) if torch.onnx.is_in_onnx_export() else F.silu(self.a(x))


def by_texts(self, x):
    for name in ("relu", "silu"):
        x = getattr(F, name)(self.a(x)[:, :3])
    return x


def unbound(self, x):
    return F.silu(self.b(nn.ReLU.forward(nn.ReLU(), self.a(x))))


def replaced_forward():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    forward = model[0].forward
    model[0].forward = lambda x: F.relu(forward(x))
    return model


class Dispatched(Two):
    @singledispatchmethod
    def step(self, x):
        raise TypeError(x)

    @step.register
    def _(self, x: torch.Tensor):
        return F.relu(x)

    def forward(self, x):
        return F.silu(self.b(self.step(self.a(x))))


class Gradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.relu()


def by_gradient(self, x):
    return F.silu(Gradient.apply(self.a(x)))


def hooked():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    model[0].register_forward_hook(lambda module, args, output: F.relu(output))
    return model


def evaluated(self, x):
    return F.silu(self.b(eval("F.relu(self.a(x))")))


def by_import(self, x):
    return F.silu(self.b(__import__("torch").relu(self.a(x))))


def by_text(self, x):
    return F.silu(self.b(methodcaller("relu")(self.a(x))))


class Scripted(Two):
    def __init__(self):
        super().__init__(nn.ReLU())
        self.a = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()))

    def forward(self, x):
        return self.act(self.b(self.a(x)))


class Own(nn.Module):
    def forward(self, x):
        return F.relu(x)


def of_no_child(self, x):
    return F.silu(self.b(self.acts["own"](self.a(x))))


def made_on_the_fly(self, x):
    return F.silu(self.b(Own()(self.a(x))))


def without_gradients(self, x):
    with torch.no_grad():
        factor = F.relu(self.b(self.a(x)))
    return F.silu(self.b(self.a(x))) * factor


class OwnEncoderLayer(nn.TransformerEncoderLayer):
    def forward(self, x):
        return F.silu(super().forward(x))


@torch.jit.script
def compiled(x):
    return F.relu(x)


def by_compiled(self, x):
    return F.silu(self.b(compiled(self.a(x))))


REFUSED = {
    "a layer that is no child": (
        of(Two, of_no_child, acts=dict(own=Own())),
        "of_no_child, .* calls a layer outside of the",
    ),
    "a layer on the fly": (
        of(Two, made_on_the_fly),
        "a function whose source cannot be read calls it, at .*made_on_the",
    ),
    "without gradients": (
        of(Two, without_gradients),
        "act1 .* in evaluation or without gradients alone, so that nothing",
    ),
    "a Transformer's forward": (OwnEncoderLayer(4, 2, 8), "whose source cannot be read calls it, at .*OwnEncoderLayer"),
    "a compiled function": (of(Two, by_compiled), "a function whose source cannot be read calls it, at .*by_compiled"),
    "a forward in one line": (
        of(Two, lambda self, x: self.step(self.a(x)), step=given_or_relu),
        "forward .* the source of .* cannot be read",
    ),
    "children": (of(Two, over_children), "over_children takes the layers of the module one after the other"),
    "its type": (of(Two, by_type, nn.ReLU()), "by_type depends on what it is: on its type"),
    "an attribute of it": (of(Two, by_attribute, nn.ReLU()), "by_attribute depends on what it is"),
    "a decorator": (of(Two, activated(by_act), nn.ReLU()), "a decorator calls it, at .*by_act, line"),
    "a decorator without a name": (of(Two, activated_without_wraps(by_act), nn.ReLU()), "source of .* cannot be read"),
    "a function in a function": (of(Two, by_helper), "at .*outside_and_more"),
    "an object": (of(Two, by_act, Callable()), r"a function outside of the class calls it, at .*Callable.__call__"),
    "a method of an object": (
        of(Two, by_object, Object()),
        "a function outside of the class calls it, at .*Object.run",
    ),
    "its input is added to by a method": (
        of(Two, added_by_a_method),
        "which its gradient needs, is changed in place, at",
    ),
    "its input is changed later": (of(Two, changed_later), "which its gradient needs, is changed in place, at"),
    "another in evaluation": (
        of(Two, other_in_evaluation),
        "act2 .* it is called in evaluation or without gradients alone, so",
    ),
    "another in exports": (
        of(Two, other_in_exports),
        "act1 .* it is called in evaluation or without gradients alone, so",
    ),
    "its input is added to": (of(Two, overwritten, nn.ReLU()), "its input, which its gradient needs, is changed"),
    "its input is replaced": (of(Two, partly_overwritten), "which its gradient needs, is changed in place, at"),
    "one of several": (of(Two, by_texts), r"by_texts, line \d+ calls one of several: ReLU, SiLU"),
    "a forward by its class": (of(Two, unbound), "a function whose source cannot be read calls it, at .*unbound"),
    "a forward that was replaced": (replaced_forward(), r"0.forward .* the source of Conv2d.forward cannot be read"),
    "singledispatch": (Dispatched(), r"Dispatched._ may be what .*Dispatched.forward, line \d+ calls"),
    "an autograd function": (of(Two, by_gradient), "at .*Gradient.forward"),
    "a hook": (hooked(), "a hook of Conv2d calls it"),
    "eval": (of(Two, evaluated), "a function whose source cannot be read calls it, at .*evaluated"),
    "an import": (of(Two, by_import), "a function whose source cannot be read calls it, at .*by_import"),
    "a text": (of(Two, by_text), "it names an activation in a text, which .*by_text, line"),
    "traced": (
        nn.Sequential(torch.fx.symbolic_trace(of(Two, by_operator))),
        "it is traced: convert it before torch.fx",
    ),
    "compiled inside": (Scripted(), "it is compiled: convert it before torch.jit"),
    "forward's default": (
        of(Two, default_of_forward),
        "it is an argument, for which a caller may give another, at .*line",
    ),
    "a part of the class": (PartOfTheClass(), r"PartOfTheClass\.step, line \d+ is held by an attribute"),
    "several methods at a place": (SeveralMethods(), r"SeveralMethods\.forward, line \d+ calls one of several methods"),
    "one of a list": (of(Two, one_of_a_list, acts=[F.relu, F.gelu]), r"line \d+ calls one of several: ReLU, GELU"),
    "an activation or another": (of(Two, or_another), r"or_another, line \d+ calls other layers as well"),
    "a given activation or ReLU": (of(Two, given_or_relu), r"given_or_relu, line \d+ calls other layers as well"),
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


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")  # torch 2.0
def test_lazy_layers():
    model = nn.Sequential(nn.LazyConv2d(4, 1), nn.ReLU(), nn.LazyBatchNorm2d(), nn.ReLU())
    with pytest.raises(ValueError, match="there are lazy layers, which have no weights yet: run the model once"):
        acon_mm.convert_activations(model, ACON)
    model(torch.zeros(2, 3, 4, 4))
    assert acon_mm.convert_activations(model, ACON).converted == ["1", "3"]
    assert [acon.num_channels for acon in acons(model).values()] == [4, 4]
