"""Plugins, subclasses and networks of users, and what PyTorch's own tools see of a converted module."""

import copy
import inspect
import pickle

import pytest
import torch
from mmdet.models.backbones import resnet
from mmengine.registry import MODELS
from torch import nn
from torch.nn import functional as F

import acon_mm
from acon_mm.convert import Host, hosts, register_sites
from acon_mm.convert.rewrite import rewritten_class
from acon_mm.convert.sites import find_sites
from acon_mm.convert.source import Source
from helpers.act_trace import ActivationTrace, acons

ACON = dict(type="AconC")
PAPER_18 = {f"layer{stage}.{block}.{act}" for stage in (1, 2, 3, 4) for block in (0, 1) for act in ("act1", "act2")}


class Attention(nn.Module):
    """A plugin that squeezes and excites, with functions."""

    def __init__(self, in_channels, ratio=4, **kwargs):
        super().__init__()
        self.down, self.up = (
            nn.Conv2d(in_channels, in_channels // ratio, 1),
            nn.Conv2d(in_channels // ratio, in_channels, 1),
        )

    def forward(self, x):
        return x * self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))).sigmoid()


class OwnForward(resnet.ResNet):
    """A ResNet that gives one more feature map, and activates it."""

    def forward(self, x):
        outputs = super().forward(x)
        return (*outputs, F.relu(F.max_pool2d(outputs[-1], 1, stride=2)))


class SEBottleneck(resnet.Bottleneck):
    """A Bottleneck with attention before the sum."""

    def __init__(self, inplanes, planes, **kwargs):
        super().__init__(inplanes, planes, **kwargs)
        self.attention = Attention(planes * 4)

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.norm1(self.conv1(x)))
        out = self.relu(self.norm2(self.conv2(out)))
        return self.relu(self.attention(self.norm3(self.conv3(out))) + identity)


class OtherMethod(resnet.Bottleneck):
    def rfp_forward(self, x, features):
        return self.forward(x) + features


@pytest.fixture(autouse=True)
def registered():
    for cls in (Attention, OwnForward):
        MODELS.register_module(module=cls)
    yield
    for cls in (Attention, OwnForward):
        MODELS.module_dict.pop(cls.__name__)


def resnet18(**options):
    return MODELS.build(dict(type="mmdet.ResNet", depth=18, base_channels=8, **options))


def same_with_relus(original: nn.Module, x: torch.Tensor) -> None:
    model = copy.deepcopy(original)
    acon_mm.convert_activations(model, dict(type="ReLU"), "all")
    assert len(find_sites(model)[0]) > 3
    torch.testing.assert_close(model(x), original(x), rtol=0, atol=0)


def test_a_plugin_does_not_change_the_default():
    plugins = [dict(cfg=dict(type="Attention"), position="after_conv3")]
    options = dict(depth=50, base_channels=8, plugins=plugins, act_cfg=ACON)
    model = MODELS.build(dict(type="mmdet.ResNet", **options))
    assert {name.rpartition(".")[2] for name in acons(model)} == {"act2"} and len(acons(model)) == 16
    everywhere = MODELS.build(dict(type="mmdet.ResNet", act_sites="all", **options))
    with ActivationTrace(everywhere) as trace:
        everywhere(torch.randn(2, 3, 64, 64))
    assert trace.calls == set() and len(trace.acons) == 16 * 4 + 1


def test_a_subclass_with_its_own_forward_has_the_same_default():
    model = MODELS.build(dict(type="OwnForward", depth=18, base_channels=8, act_cfg=ACON))
    assert set(acons(model)) == PAPER_18
    everywhere = MODELS.build(dict(type="OwnForward", depth=18, base_channels=8, act_cfg=ACON, act_sites="all"))
    assert set(acons(everywhere)) == {*PAPER_18, "relu", "act"}
    with ActivationTrace(everywhere) as trace:
        everywhere(torch.randn(2, 3, 64, 64))
    assert trace.calls == set() and trace.acons == set(acons(everywhere))
    same_with_relus(MODELS.build(dict(type="OwnForward", depth=18, base_channels=8)), torch.randn(2, 3, 64, 64))


def test_a_block_with_its_own_forward_has_the_papers_site(monkeypatch):
    monkeypatch.setitem(resnet.ResNet.arch_settings, 14, (SEBottleneck, (1, 1, 1, 1)))
    cfg = dict(type="mmdet.ResNet", depth=14, base_channels=8)
    model = MODELS.build(dict(act_cfg=ACON, **cfg))
    assert set(acons(model)) == {f"layer{stage}.0.act2" for stage in (1, 2, 3, 4)}
    model(torch.randn(2, 3, 64, 64))
    same_with_relus(MODELS.build(cfg), torch.randn(2, 3, 64, 64))


def test_a_subclass_that_overrides_another_method():
    model = nn.Sequential(resnet.Bottleneck(32, 8), OtherMethod(32, 8))
    assert acon_mm.convert_activations(model, ACON, "all").converted == [
        f"{block}.{act}" for block in (0, 1) for act in ("act1", "act2", "act3")
    ]
    model(torch.randn(1, 32, 8, 8))


class OtherOrder(nn.Module):
    """Of another version: as many activations, of other layers."""

    def __init__(self):
        super().__init__()
        self.wide, self.narrow, self.relu = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), nn.ReLU()

    def forward(self, x):
        return self.relu(self.narrow(self.relu(self.wide(x))))


def test_another_source_than_that_of_the_entry_is_read(monkeypatch):
    """The entry would give the activations each other's channels."""

    class Sites(Host):
        calls = {"forward": ("self.act1", "self.act2")}
        before = {"act1": "narrow", "act2": "wide"}

    monkeypatch.setattr(Host, "_by_method", dict(Host._by_method))
    register_sites(OtherOrder)(Sites)
    assert [site.channels.num_channels for site in find_sites(OtherOrder())[0]] == [4, 8]
    monkeypatch.setattr(Sites, "__module__", "acon_mm.convert.tables.somewhere")  # as an entry of ours, with its source
    monkeypatch.setitem(hosts.SOURCES, f"{__name__}.OtherOrder.forward", "another")
    model = OtherOrder()
    acon_mm.convert_activations(model, ACON)
    assert [acon.num_channels for acon in acons(model).values()] == [8, 4]
    model(torch.randn(1, 3, 4, 4))


def test_parameters_that_the_user_unfroze_stay_so():
    model = resnet18(frozen_stages=1)
    model.requires_grad_(True)
    acon_mm.convert_activations(model, ACON, ["layer4"])
    assert all(parameter.requires_grad for parameter in model.parameters())
    frozen = resnet18(frozen_stages=1)
    before = {name for name, parameter in frozen.named_parameters() if not parameter.requires_grad}
    acon_mm.convert_activations(frozen, ACON, "all")
    new = {name for name, parameter in frozen.named_parameters() if not parameter.requires_grad} - before
    assert new == {
        f"{name}.{p}" for name in acons(frozen) if name.startswith(("layer1", "relu")) for p in ("p1", "p2", "beta")
    }


def test_hooks_move_to_the_new_activation():
    model, met = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), []
    model[1].register_forward_hook(lambda module, args, output: met.append(type(module).__name__))
    acon_mm.convert_activations(model, ACON)
    model(torch.randn(1, 3, 4, 4))
    assert met == ["AconC"]


def test_running_leaves_no_trace():
    class Shuffled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.drop = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Dropout()

        def forward(self, x):
            return F.relu(F.pixel_shuffle(self.drop(self.norm(self.conv(x))), 2))

    model = Shuffled()
    buffers = copy.deepcopy(dict(model.named_buffers()))
    parameters, states = [id(p) for p in model.parameters()], torch.get_rng_state()
    acon_mm.convert_activations(model, ACON)
    assert model.act.num_channels == 2 and model.training and model.norm.training
    assert torch.equal(torch.get_rng_state(), states)
    assert [id(p) for p in model.parameters()][: len(parameters)] == parameters
    torch.testing.assert_close(dict(model.named_buffers()), buffers, rtol=0, atol=0)


def test_channels_of_an_own_act_cfg_that_only_a_run_shows():
    """The class builds the ACONs itself. PixelShuffle hides the channels of one, a sum those of the other."""

    @MODELS.register_module()
    class OwnActCfg(nn.Module):
        def __init__(self, act_cfg):
            super().__init__()
            self.conv, self.shuffle, self.wide = nn.Conv2d(3, 8, 1), nn.PixelShuffle(2), nn.Conv2d(2, 6, 1)
            self.act1, self.act2 = MODELS.build(act_cfg), MODELS.build(act_cfg)

        def forward(self, x):
            return self.act2(self.wide(self.act1(self.shuffle(self.conv(x)))).flip(0))

    try:
        for cfg in (dict(type="OwnActCfg", act_cfg=ACON), [dict(type="OwnActCfg", act_cfg=ACON)]):
            model = MODELS.build(cfg)
            assert [acon.num_channels for acon in acons(model).values()] == [2, 6]
            assert len(list(model.parameters())) == 4 + 2 * 3
    finally:
        MODELS.module_dict.pop("OwnActCfg")


class Scripted(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.relu = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.ReLU()

    def forward(self, x):
        return self.relu(self.conv2(self.relu(self.conv1(x))))


def test_script_and_inspect_see_what_runs():
    model = Scripted()
    acon_mm.convert_activations(model, dict(type="SiLU"))
    assert "self.act2(self.conv2(self.act1(self.conv1(x))))" in inspect.getsource(model.forward)
    x = torch.randn(1, 3, 4, 4)
    torch.testing.assert_close(torch.jit.script(model)(x), model(x))
    block = resnet.BasicBlock(4, 4)
    acon_mm.convert_activations(block, ACON)
    assert "self.act2(out)" in inspect.getsource(block.forward)


def test_pickles_of_another_version_are_refused(monkeypatch):
    model = Scripted()
    acon_mm.convert_activations(model, dict(type="SiLU"))
    text = pickle.dumps(model)
    x = torch.randn(1, 3, 4, 4)
    torch.testing.assert_close(pickle.loads(text)(x), model(x))
    monkeypatch.setattr(Source.of(Scripted.forward), "digest", "another")
    rewritten_class.cache_clear()
    with pytest.raises(ValueError, match=r"Scripted\.forward is not the one that was converted: it has another source"):
        pickle.loads(text)


class OtherNames(nn.Module):
    """A method need not call its module ``self``."""

    def __init__(me):
        super().__init__()
        me.conv = nn.Conv2d(3, 4, 1)

    def forward(me, x):
        def inner(y):
            return F.relu(y)

        return inner(next(map(F.relu, [me.conv(x)])) - 1)


class MoreNames(OtherNames):
    def forward(this, x):
        return F.silu(super().forward(x))


@pytest.mark.parametrize("cls", [OtherNames, MoreNames])
def test_the_module_has_any_name_in_its_methods(cls):
    original, model = cls(), cls()
    model.load_state_dict(original.state_dict())
    sites = acon_mm.convert_activations(model, ACON).converted
    assert len(sites) == (2 if cls is OtherNames else 3) == len(acons(model))
    x = torch.randn(2, 3, 4, 4)
    with ActivationTrace(model) as trace:
        assert model(x).shape == original(x).shape
    assert trace.calls == set()
