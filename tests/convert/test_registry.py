"""``act_cfg`` and ``act_sites`` in configs. An error at build says what is wrong and what to do."""

import pytest
import torch
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule, Sequential
from mmengine.registry import MODELS
from torch import nn

import acon_mm
from acon_mm import patches
from acon_mm.layers import Acon
from helpers.act_trace import acons
from helpers.five_models import build


@pytest.fixture(scope="module")
def registry():
    """A class whose activation cannot be converted, and one whose layers do not show the channels."""

    class Odd(BaseModule):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)
            self.relu = nn.ReLU()

        exec("def forward(self, x):\n    return self.relu(self.conv(x))")

    class ChannelsUnknown(BaseModule):
        def __init__(self, act_cfg):
            super().__init__()
            self.layers = nn.Sequential(nn.PixelShuffle(2), MODELS.build(act_cfg))

    for cls in (Odd, ChannelsUnknown):
        MODELS.register_module(module=cls)
    yield
    for cls in (Odd, ChannelsUnknown):
        MODELS.module_dict.pop(cls.__name__)


@pytest.mark.parametrize(
    ("part", "options", "message"),
    [
        (
            "backbone",
            dict(act_cfg=dict(type="MetaAcon")),
            r"act_cfg of ResNet: .*'MetaAcon'; did you mean 'MetaAconC'\?",
        ),
        ("decode_head", dict(act_cfg=dict(type="Foo1")), r"act_cfg of PSPHead: .*registered activations are .*AconC"),
        ("backbone", dict(act_cfg="AconC"), r"act_cfg of ResNetV1c must be a dict with a 'type', got 'AconC'"),
        ("backbone", dict(act_sites="all"), r"act_sites='all' of ResNetV1c needs an act_cfg as well: add it"),
        (
            "backbone",
            dict(act_cfg=dict(type="AconC"), act_sites=["act4"]),
            r"act_sites of ResNetV1c: no site matches 'act4'. The sites are stem.2, .*layer4.1.act2",
        ),
        (
            "backbone",
            dict(act_cfg=dict(type="AconC"), act_sites="some"),
            r"act_sites of ResNetV1c must be 'paper', 'all' or a list of site names, got 'some'",
        ),
        (
            "decode_head",
            dict(act_cfg=dict(type="AconC"), act_sites="paper"),
            r"act_sites='paper' chooses no site of PSPHead: use 'all'",
        ),
        (
            "backbone",
            dict(act_cfg=dict(type="AconC", num_channels=7)),
            r"AconC at ResNetV1c.layer1.0.act1 was given num_channels=7, but .* has 16 channels: leave",
        ),
        ("backbone", dict(act_cfg=dict(type="AconC", init="zeros")), r"init must be one of 'paper', 'swish', 'relu'"),
    ],
)
def test_errors_at_build(part, options, message):
    backbone = "ResNet" if "of ResNet:" in message else "ResNetV1c"
    extra = dict(backbone=dict(type=backbone))
    extra[part] = {**extra.get(part, {}), **options}
    with pytest.raises(ValueError, match=message):
        build("pspnet", **extra)


def test_act_cfg_on_what_is_no_module():
    class Plain:
        pass

    with pytest.raises(ValueError, match=r"Plain is not an nn\.Module, so act_cfg cannot be used: remove it"):
        MODELS.build(dict(type=Plain, act_cfg=dict(type="AconC")))


def test_a_list_of_configs():
    """mmengine builds a Sequential of them."""
    model = MODELS.build(
        [
            dict(type=ConvModule, in_channels=3, out_channels=4, kernel_size=1, act_cfg=dict(type="AconC")),
            dict(type="mmdet.ResNet", depth=18, in_channels=4, act_cfg=dict(type="AconC"), act_sites=["stem"]),
        ]
    )
    assert isinstance(model, Sequential)
    assert [name for name, module in model.named_modules() if isinstance(module, Acon)] == ["0.activate", "1.relu"]


def test_act_cfg_where_nothing_activates():
    message = "ImgDataPreprocessor has no activation that act_cfg could replace: remove act_cfg from its config"
    with pytest.raises(ValueError, match=message):
        MODELS.build(dict(type="ImgDataPreprocessor", act_cfg=dict(type="AconC")))


def test_an_unknown_site_is_an_error_and_nothing_is_changed(registry):
    with pytest.raises(
        ValueError, match=r"the activation relu of Odd cannot be converted: the source of .*forward cannot"
    ):
        MODELS.build(dict(type="Odd", act_cfg=dict(type="SiLU")))
    model = nn.Sequential(ConvModule(3, 4, 1), MODELS.build(dict(type="Odd")))
    with pytest.raises(ValueError, match=r"1\.relu of Sequential cannot be converted"):
        acon_mm.convert_activations(model, dict(type="SiLU"))
    assert type(model[0].activate) is nn.ReLU
    acon_mm.convert_activations(model, dict(type="SiLU"), ["0.activate"])
    assert type(model[0].activate) is nn.SiLU


def test_unknown_channels_are_an_error_at_build(registry):
    with pytest.raises(
        ValueError, match=r"layers\.1 of ChannelsUnknown needs its number .*Add num_channels to act_cfg"
    ):
        MODELS.build(dict(type="ChannelsUnknown", act_cfg=dict(type="AconC")))
    model = MODELS.build(dict(type="ChannelsUnknown", act_cfg=dict(type="AconC", num_channels=2)))
    with pytest.raises(ValueError, match=r"AconC at Sequential.1 has 2 channels, at dimension 1, .*\(1, 1, 4, 4\)"):
        model.layers(torch.zeros(1, 4, 2, 2))


def test_uninstalled_registries_refuse_act_cfg_again():
    patches.uninstall()
    try:
        with pytest.raises(TypeError, match="unexpected keyword argument 'act_cfg'"):
            build("retinanet", backbone=dict(act_cfg=dict(type="AconC")))
    finally:
        patches.install()
    assert any(isinstance(m, Acon) for m in build("retinanet", backbone=dict(act_cfg=dict(type="AconC"))).modules())


def test_sites_of_a_class_that_takes_act_cfg_itself():
    head = dict(act_cfg=dict(type="AconC"), act_sites=["bottleneck"])
    assert set(acons(build("pspnet", decode_head=head))) == {"decode_head.bottleneck.activate"}


@pytest.mark.parametrize("own", [True, False])
def test_a_function_as_type(own):
    def takes(act_cfg):
        return ConvModule(3, 4, 1, act_cfg=act_cfg)

    def does_not_take():
        return ConvModule(3, 4, 1)

    model = MODELS.build(dict(type=takes if own else does_not_take, act_cfg=dict(type="AconC")))
    assert [(name, acon.num_channels) for name, acon in acons(model).items()] == [("activate", 4)]
