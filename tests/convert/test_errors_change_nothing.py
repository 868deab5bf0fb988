"""An error of ``convert_activations`` leaves the model as it was: every ``raise`` of the conversion is reached here."""

import ast
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from mmcv.cnn import ConvModule
from mmdet.models.backbones.resnet import BasicBlock
from torch import nn

import acon_mm
from acon_mm import convert
from acon_mm.convert.convert import convert_remaining_activations
from acon_mm.convert.hosts import Host, HostSite
from helpers.det_parts import build

ACON = dict(type="AconC")


class Unknown(nn.Module):
    """Calls an activation, and no table knows how."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()


class OneCall(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(self.conv(x))


class Decorated(OneCall):
    @torch.no_grad()
    def forward(self, x):
        return self.relu(self.conv(x))


class OwnAcon(OneCall):
    """As a module whose class takes ``act_cfg``."""

    def __init__(self):
        super().__init__()
        self.relu = acon_mm.AconC(8, channel_dim=1)

    def forward(self, x):
        return self.relu(self.conv(x))


def closure() -> nn.Module:
    outside = nn.Identity()

    class Closure(OneCall):
        def forward(self, x):
            return self.relu(outside(self.conv(x)))

    return Closure()


class WithSequential(OneCall):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(8, 8, 1))

    def forward(self, x):
        return self.relu(self.layers(x))


def method_of(cls: type) -> tuple[str, ...]:
    return (f"{cls.forward.__module__}.{cls.__qualname__}.forward",)


@pytest.fixture(autouse=True)
def entries(monkeypatch):
    """Table entries that do not fit their classes."""
    monkeypatch.setattr(Host, "_by_method", dict(Host._by_method))

    class TwoCallsSites(Host):
        upstream = method_of(OneCall)
        calls = {"forward": ("self.act1", "self.act2")}
        before = {"act1": "conv", "act2": "conv"}

    class OwnAconSites(Host):
        upstream = method_of(OwnAcon)
        calls = {"forward": ("self.relu",)}
        before = {"relu": "conv"}

    class DecoratedSites(Host):
        upstream = ("torch.utils._contextlib.context_decorator.<locals>.decorate_context", *method_of(Decorated))
        calls = {"forward": ("self.act",)}
        before = {"act": "conv"}

    class ClosureSites(Host):
        upstream = (closure.__module__ + ".closure.<locals>.Closure.forward",)
        calls = {"forward": ("self.act",)}
        before = {"act": "conv"}

    class InSequentialSites(Host):
        upstream = method_of(WithSequential)
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
        module.register_state_dict_post_hook(lambda *_: None)
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
        lambda: network(up=nn.PixelShuffle(2), act=nn.ReLU()), ACON, ValueError, "needs its number of channels"
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
    "no table entry": Case(lambda: network(odd=Unknown()), ACON, ValueError, "odd.relu of Sequential cannot be"),
    "another version": Case(
        lambda: network(last=OneCall()), ACON, ValueError, "calls 1 activations, but its entry in the tables lists 2"
    ),
    "decorated": Case(lambda: network(last=Decorated()), ACON, ValueError, "because it has a decorator"),
    "closure": Case(lambda: network(last=closure()), ACON, ValueError, r"because it uses \['outside'\] of a function"),
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
    model = network(own=OwnAcon(), odd=Unknown())
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


def raises() -> Iterator[tuple[str, int, int]]:
    """Each ``raise`` in what convert_activations runs: file, first and last line."""
    package = Path(convert.__file__).parent
    for path in package.rglob("*.py"):
        if path.name != "registry.py":  # for configs alone
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Raise):
                    yield str(path), node.lineno, node.end_lineno


def test_the_cases_reach_every_raise():
    reached = set()
    for case in CASES.values():
        frame = traceback.extract_tb(convert_in_vain(case)[2].__traceback__)[-1]
        reached |= {place for place in raises() if place[0] == frame.filename and place[1] <= frame.lineno <= place[2]}
    assert set(raises()) - reached == set()
    assert len(reached) > 8
