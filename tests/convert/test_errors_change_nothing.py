"""An error of ``convert_activations`` leaves the model as it was: every ``raise`` of the conversion is reached here."""

import ast
import contextlib
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from mmcv.cnn import ConvModule
from mmdet.models.backbones.resnet import BasicBlock
from torch import nn
from torch.nn import functional as F

import acon_mm
from acon_mm import convert
from acon_mm.convert.convert import convert_remaining_activations
from acon_mm.convert.hosts import Host, HostSite, register_sites
from helpers.det_parts import build

ACON = dict(type="AconC")


class Unreadable(nn.Module):
    """Calls an activation, and has no source."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()

    exec("def forward(self, x):\n    return self.relu(x)")


class OneCall(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(self.conv(x))


class OwnAcon(OneCall):
    """As a module whose class takes ``act_cfg``."""

    def __init__(self):
        super().__init__()
        self.relu = acon_mm.AconC(8, channel_dim=1)

    def forward(self, x):
        return self.relu(self.conv(x))


def decorated() -> nn.Module:
    def local(function):
        return function

    class Decorated(OneCall):
        @local
        def forward(self, x):
            return self.relu(self.relu(self.conv(x)))

    return Decorated()


class ChangesAnElement(OneCall):
    def forward(self, x):
        x = [self.conv(x)]
        F.relu(x[0], inplace=True)
        return x[0]


class InputNotFirst(OneCall):
    def forward(self, x):
        return F.relu(inplace=True, input=self.conv(x))


class InputInADict(OneCall):
    def forward(self, x):
        return F.relu(**dict(input=self.conv(x)))


class MethodByName(OneCall):
    def forward(self, x):
        return getattr(self.conv(x), "relu")()  # noqa: B009


class ActivatingProperty(OneCall):
    @property
    def features(self):
        return F.relu(self.x)

    def forward(self, x):
        self.x = self.conv(x)
        return self.features


def activate(x):
    return F.relu(x) + 1


class CallsAFunction(OneCall):
    def forward(self, x):
        return activate(self.conv(x))


class NoParameters(OneCall):
    def forward(*args):
        return F.relu(args[0].conv(args[1]))


class TwoWidths(OneCall):
    def __init__(self):
        super().__init__()
        self.other = nn.Conv2d(8, 4, 1)

    def step(self, layer, x):
        return F.relu(layer(x))

    def forward(self, x):
        return self.step(self.other, self.step(self.conv, x))


class OnlyInTraining(OneCall):
    def forward(self, x):
        return F.relu(torch.flip(x, [1])) if self.training else x


class Endless(OneCall):
    def forward(self, x):
        for i in range(100):
            for j in range(100):
                for k in range(100):
                    x = self.relu(x) + i * j * k
        return x


class WithSequential(OneCall):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(8, 8, 1))

    def forward(self, x):
        return self.relu(self.layers(x))


@pytest.fixture(autouse=True)
def entries(monkeypatch):
    """Table entries that do not fit their classes."""
    monkeypatch.setattr(Host, "_by_method", dict(Host._by_method))

    @register_sites(OneCall)
    class TwoCallsSites(Host):
        calls = {"forward": ("self.act1", "self.act2")}
        before = {"act1": "conv", "act2": "conv"}

    @register_sites(OwnAcon)
    class OwnAconSites(Host):
        calls = {"forward": ("self.relu",)}
        before = {"relu": "conv"}

    @register_sites(WithSequential)
    class InSequentialSites(Host):
        calls = {"forward": ("self.layers[1]",)}

        @classmethod
        def sites(cls, module):
            return [HostSite("layers.1", module.layers[0])]


def network(**parts: nn.Module) -> nn.Sequential:
    """Modules that can be converted, with everything that a conversion might disturb, and ``parts`` after them."""
    model = nn.Sequential(OrderedDict(first=ConvModule(3, 8, 1), block=BasicBlock(8, 8), **parts))
    model.first.conv.weight.requires_grad_(False)
    model.block.eval()
    model.block.bn1.running_mean.fill_(0.5)
    for module in (model, model.first.activate, model.block.relu):
        module.register_forward_hook(lambda *_: None)
        module.register_full_backward_hook(lambda *_: None)
        module._register_state_dict_hook(lambda *_: None)
    return model


class Case(NamedTuple):
    model: Callable[[], nn.Module]
    act_cfg: Any
    error: type[Exception]
    message: str
    act_sites: Any = "all"


CASES = {
    "act_cfg is no dict": Case(network, "AconC", ValueError, "must be a dict with a 'type', got 'AconC'"),
    "act_cfg without a type": Case(network, dict(init="relu"), ValueError, "must be a dict with a 'type'"),
    "unknown type": Case(network, dict(type="Acon"), ValueError, r"did you mean 'Acon\w'"),
    "unknown option": Case(network, dict(**ACON, size=3), TypeError, "AconC does not take size"),
    "wrapped": Case(
        lambda: nn.DataParallel(network()), ACON, ValueError, "it is wrapped by DataParallel, which would not know"
    ),
    "unknown init": Case(network, dict(**ACON, init="zeros"), ValueError, "init must be one of"),
    "other channels": Case(network, dict(**ACON, num_channels=7), ValueError, "was given num_channels=7"),
    "unknown channels": Case(
        lambda: network(last=nn.Sequential(nn.Flatten(), nn.ReLU())),
        ACON,
        ValueError,
        r"needs its number of channels, and .* it meets different numbers of channels: .* \[\(1, 8192\)",
        ["last"],
    ),
    "does not run": Case(
        lambda: nn.Sequential(nn.Bilinear(3, 4, 5), nn.ReLU()),
        ACON,
        ValueError,
        "running Sequential on a tiny input fails",
    ),
    "not called": Case(
        lambda: network(last=OnlyInTraining()), ACON, ValueError, "is not called when the model runs once in evaluation"
    ),
    "no name for the module": Case(
        lambda: network(last=NoParameters()), ACON, ValueError, r"NoParameters.forward has no parameter for its module"
    ),
    "nothing activates": Case(
        lambda: nn.Sequential(nn.Conv2d(3, 4, 1)), ACON, convert.NoActivationsError, "Sequential has no activation that"
    ),
    "only gates": Case(
        lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sigmoid()),
        ACON,
        convert.NoActivationsError,
        r"\(it keeps 1: a gate",
    ),
    "act_sites is a word": Case(network, ACON, ValueError, "must be 'paper', 'all' or a list", "some"),
    "act_sites is a number": Case(network, ACON, ValueError, "must be 'paper', 'all' or a list", 3),
    "act_sites has no words": Case(network, ACON, ValueError, "must be 'paper', 'all' or a list", [1]),
    "act_sites names no site": Case(network, ACON, ValueError, "'act9'", ["first.activate", "act9"]),
    "act_sites is empty": Case(network, ACON, ValueError, "chooses no site", []),
    "no source": Case(
        lambda: network(odd=Unreadable()),
        ACON,
        ValueError,
        r"odd.relu of Sequential cannot be converted: the source of .*forward cannot be read.*act_sites",
    ),
    "too large": Case(lambda: network(odd=Endless()), ACON, ValueError, "Endless.forward is too large to read"),
    "function": Case(
        lambda: network(odd=CallsAFunction()),
        ACON,
        ValueError,
        r"a function outside of the class calls it, at \S+\.activate, line \d+",
    ),
    "two widths": Case(
        lambda: network(odd=TwoWidths()),
        ACON,
        ValueError,
        r"different numbers of channels \(4 at dimension 1 and 8 at dimension 1\) at \S+\.TwoWidths.step, line \d+",
    ),
    "an element in place": Case(
        lambda: network(odd=ChangesAnElement()), ACON, ValueError, "the result of this call is not used"
    ),
    "input not first": Case(
        lambda: network(odd=InputNotFirst()), ACON, ValueError, "write the input of this call first"
    ),
    "input in a dict": Case(lambda: network(odd=InputInADict()), ACON, ValueError, r"not in \* or \*\*"),
    "method by name": Case(lambda: network(odd=MethodByName()), ACON, ValueError, "this call has no input of its own"),
    "a property": Case(
        lambda: network(odd=ActivatingProperty()), ACON, ValueError, "features activates, and is not a method that"
    ),
    "another version": Case(
        lambda: network(last=OneCall()), ACON, ValueError, "calls 1 activations, but its entry in the tables lists 2"
    ),
    "decorated": Case(lambda: network(last=decorated()), ACON, ValueError, "because it has a decorator"),
    "in a Sequential": Case(
        lambda: network(last=WithSequential()), ACON, TypeError, "the Sequential would call the new activation layers.1"
    ),
    "recursive pyramid": Case(
        lambda: build("rfp", add_extra_convs="on_output", relu_before_extra_convs=True, num_outs=6),
        ACON,
        ValueError,
        "relu_before_extra_convs=True cannot be converted",
    ),
}


def state(model: nn.Module) -> dict[str, Any]:
    """All that a model consists of: identities of its parts, and values of its tensors."""
    found: dict[str, Any] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        found[path] = (id(module), type(module), module.training)
        for name, value in vars(module).items():  # hooks, children and tensors among them
            inside = {key: id(each) for key, each in value.items()} if isinstance(value, dict) else None
            found[f"{path}:{name}"] = id(value) if inside is None else list(inside.items())
    for key, tensor in (*model.named_parameters(), *model.named_buffers()):
        found[f"{key} value"] = (tensor.requires_grad, tensor.grad, tensor.dtype, tensor.detach().clone().tolist())
    return found


def convert_in_vain(case: Case) -> tuple[nn.Module, dict, Exception]:
    """The model, what it was before, and the error."""
    model = case.model()
    before = state(model)
    with pytest.raises(case.error, match=case.message) as caught:
        acon_mm.convert_activations(model, case.act_cfg, case.act_sites)
    return model, before, caught.value


@pytest.mark.parametrize("name", CASES)
def test_the_model_is_unchanged(name):
    model, before, _ = convert_in_vain(CASES[name])
    after = state(model)
    assert list(after) == list(before)
    assert {key: value for key, value in after.items() if value != before[key]} == {}


def test_a_model_with_acons_of_its_own_is_unchanged():
    model = network(own=OwnAcon(), odd=Unreadable())
    before = state(model)
    with pytest.raises(ValueError, match=r"odd\.relu of Sequential cannot be converted"):
        convert_remaining_activations(model, ACON, "all")
    assert state(model) == before
    convert_remaining_activations(model, ACON, ["block"])
    assert type(model.own) is not OwnAcon


def test_the_comparison_sees_a_conversion():
    model = network()
    before = state(model)
    acon_mm.convert_activations(model, dict(type="ReLU"), ["first.activate"])
    assert {key for key, value in state(model).items() if value != before.get(key)} >= {"first.activate"}


def raises() -> Iterator[tuple[str, int]]:
    """Each ``raise`` of an error in what convert_activations runs: file and line."""
    package = Path(convert.__file__).parent
    for path in package.rglob("*.py"):
        if path.name != "registry.py":  # for configs alone
            for node in ast.walk(ast.parse(path.read_text())):
                if (
                    isinstance(node, ast.Raise)
                    and isinstance(node.exc, ast.Call)
                    and not any(text in ast.unparse(node) for text in ("another source now", "torch.jit.script cannot"))
                ):
                    yield str(path), node.lineno


def test_the_cases_reach_every_raise():
    """Also those that become the reason of a site, and so a part of another error."""
    expected, reached = set(raises()), set()

    def trace(frame, event, _):
        if frame.f_code.co_filename not in files:
            return None
        reached.add((frame.f_code.co_filename, frame.f_lineno))
        return trace

    files = {path for path, _ in expected}
    before = sys.gettrace()
    try:
        for name, case in CASES.items():
            if name != "too large":  # slow when it is watched; its raise has no text
                model = case.model()
                sys.settrace(trace)
                with contextlib.suppress(case.error):
                    acon_mm.convert_activations(model, case.act_cfg, case.act_sites)
                sys.settrace(before)
    finally:
        sys.settrace(before)
    assert expected - reached == set()
    assert len(expected) > 8
