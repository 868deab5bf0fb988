"""Ways in which users write networks: converted whole, or refused in one line that says why."""

import copy
from functools import partial, reduce, singledispatchmethod, wraps
from operator import methodcaller

import pytest
import torch
from mmcv.cnn import ConvModule
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


CONVERTED = {
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


REFUSED = {
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


def test_lazy_layers():
    model = nn.Sequential(nn.LazyConv2d(4, 1), nn.ReLU(), nn.LazyBatchNorm2d(), nn.ReLU())
    with pytest.raises(ValueError, match="there are lazy layers, which have no weights yet: run the model once"):
        acon_mm.convert_activations(model, ACON)
    model(torch.zeros(2, 3, 4, 4))
    assert acon_mm.convert_activations(model, ACON).converted == ["1", "3"]
    assert [acon.num_channels for acon in acons(model).values()] == [4, 4]


class Thresholds(nn.Module):
    """ReLU as PyTorch wrote it once."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 1)
        self.threshold = nn.Threshold(0.0, 0.0)

    def forward(self, x):
        return self.threshold(self.second(F.threshold(self.first(x), 0.0, 0.0)))


def test_thresholds_are_activations():
    model = Thresholds()
    acon_mm.convert_activations(model, dict(type="AconC"))
    assert [module.num_channels for module in (model.act, model.threshold)] == [4, 8]
    model(torch.randn(2, 3, 5, 5))
