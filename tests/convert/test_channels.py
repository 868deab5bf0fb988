"""The channels of an ACON without num_channels: which layers show them when it is attached, and which do not."""

from collections import OrderedDict
from itertools import permutations

import pytest
import torch
from mmcv.cnn import ConvModule, DepthwiseSeparableConvModule
from mmcv.ops import ModulatedDeformConv2dPack
from torch import nn
from torch.testing import assert_close

from acon_mm import AconC, MetaAconC
from acon_mm.convert.channels import channels_before

MAPS, FLAT, TOKENS = (2, 3, 8, 8), (2, 3), (2, 5, 3)
NO_CHANNELS = (
    r"does not know its number of channels, because no layer before it has one\. "
    r"Write it in the config: act_cfg=dict\(type='AconC', num_channels="
)


class LayerNorm2d(nn.LayerNorm):
    """A norm over the channels of maps, which it moves before and after."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Plain(nn.Module):
    """Runs its children in order, as most modules outside of Sequential and ConvModule do."""

    def __init__(self, *children):
        super().__init__()
        for i, child in enumerate(children):
            setattr(self, f"child{i}", child)

    def forward(self, x):
        for child in self.children():
            x = child(x)
        return x


def acon_of(module):
    (acon,) = (m for m in module.modules() if isinstance(m, AconC))
    return acon


def resolved(module):
    acon = acon_of(module)
    return acon.num_channels, acon.channel_dim


# Where the layers show the channels


@pytest.mark.parametrize("order", list(permutations(["conv", "norm", "act"])), ids="-".join)
@pytest.mark.parametrize("norm_cfg", [None, dict(type="BN")])
def test_conv_module_by_its_order(order, norm_cfg):
    module = ConvModule(3, 6, 1, order=order, norm_cfg=norm_cfg, act_cfg=dict(type="AconC"))
    assert resolved(module) == (6 if order.index("conv") < order.index("act") else 3, 1)
    assert module(torch.randn(MAPS)).shape == (2, 6, 8, 8)


@pytest.mark.parametrize(
    ("conv_cfg", "shape"),
    [
        (dict(type="Conv1d"), (2, 3, 8)),
        (dict(type="Conv3d"), (2, 3, 4, 4, 4)),
        (dict(type="deconv"), MAPS),
        (dict(type="DCN", deform_groups=1), MAPS),
        (dict(type="DCNv2", deform_groups=1), MAPS),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else "",
)
def test_conv_module_of_other_convolutions(conv_cfg, shape):
    module = ConvModule(3, 6, 3, padding=1, bias=False, conv_cfg=conv_cfg, act_cfg=dict(type="AconC"))
    assert resolved(module) == (6, 1)
    assert module(torch.randn(shape)).shape[:2] == (2, 6)


def test_depthwise_separable_conv_module():
    module = DepthwiseSeparableConvModule(3, 6, 3, padding=1, act_cfg=dict(type="AconC"))
    assert [m.num_channels for m in module.modules() if isinstance(m, AconC)] == [3, 6]
    assert resolved(nn.Sequential(DepthwiseSeparableConvModule(3, 6, 1, act_cfg=None), AconC())) == (6, 1)


CHAINS = {
    "conv": (lambda: [nn.Conv2d(3, 6, 1)], MAPS, (6, 1)),
    "conv, bn": (lambda: [nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6)], MAPS, (6, 1)),
    "conv, gn": (lambda: [nn.Conv2d(3, 6, 1), nn.GroupNorm(2, 6)], MAPS, (6, 1)),
    "conv, dropout": (lambda: [nn.Conv2d(3, 6, 1), nn.Dropout2d()], MAPS, (6, 1)),
    "conv, pool": (lambda: [nn.Conv2d(3, 6, 1), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1)], MAPS, (6, 1)),
    "conv, relu": (lambda: [nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Identity(), nn.Upsample(scale_factor=2)], MAPS, (6, 1)),
    "two convs": (lambda: [nn.Conv2d(3, 5, 1), nn.Conv2d(5, 6, 1)], MAPS, (6, 1)),
    "ConvModule": (lambda: [ConvModule(3, 6, 1)], MAPS, (6, 1)),
    "nested": (lambda: [nn.Sequential(nn.Conv2d(3, 5, 1), nn.Sequential(nn.Conv2d(5, 6, 1), nn.ReLU()))], MAPS, (6, 1)),
    "transposed": (lambda: [nn.ConvTranspose2d(3, 6, 2, stride=2)], MAPS, (6, 1)),
    "deformable": (lambda: [ModulatedDeformConv2dPack(3, 6, 3, padding=1)], MAPS, (6, 1)),
    "linear": (lambda: [nn.Linear(3, 6)], TOKENS, (6, -1)),
    "linear, ln": (lambda: [nn.Linear(3, 6), nn.LayerNorm(6), nn.Dropout()], TOKENS, (6, -1)),
    "linear, bn": (lambda: [nn.Linear(3, 6), nn.BatchNorm1d(6)], FLAT, (6, 1)),
    "conv, ln over maps": (lambda: [nn.Conv2d(3, 6, 1), nn.LayerNorm((6, 8, 8))], MAPS, (6, 1)),
    "conv, LayerNorm2d": (lambda: [nn.Conv2d(3, 6, 1), LayerNorm2d(6)], MAPS, (6, 1)),
    "instance norm": (lambda: [nn.Conv2d(3, 6, 1), nn.InstanceNorm2d(6)], MAPS, (6, 1)),
}


@pytest.mark.parametrize("chain", CHAINS)
def test_sequential_takes_the_layer_before(chain):
    layers, shape, channels = CHAINS[chain]
    module = nn.Sequential(*layers(), AconC())
    assert resolved(module) == channels
    module(torch.randn(shape))  # checks the channels
    appended = nn.Sequential(*layers())
    appended.append(AconC())
    named = nn.Sequential(OrderedDict([*((f"l{i}", layer) for i, layer in enumerate(layers())), ("act", AconC())]))
    assert resolved(appended) == resolved(named) == channels


@pytest.mark.parametrize(
    "chain", ["conv", "conv, bn", "transposed", "deformable", "linear", "linear, ln", "instance norm"]
)
def test_plain_module_with_one_number_of_channels(chain):
    layers, shape, channels = CHAINS[chain]
    module = Plain(*layers(), AconC())
    assert resolved(module) == channels
    module(torch.randn(shape))


def test_acon_after_acon():
    module = nn.Sequential(nn.Linear(3, 6), MetaAconC(), nn.Dropout(), AconC())
    assert resolved(module) == (6, -1)


def test_parameters_exist_once_attached():
    """An optimizer that is built after the model must see them."""
    acon = AconC()
    assert not list(acon.parameters())
    module = nn.Sequential(nn.Conv2d(3, 6, 1), acon)
    assert {k for k, _ in module.named_parameters()} == {"0.weight", "0.bias", "1.p1", "1.p2", "1.beta"}


# Where they do not


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ([], MAPS),
        ([nn.Flatten()], MAPS),
        ([nn.Conv2d(3, 6, 1), nn.Flatten()], MAPS),
        ([nn.Conv2d(3, 8, 1), nn.PixelShuffle(2)], MAPS),
        ([nn.Conv2d(3, 6, 1), nn.Unfold(2)], MAPS),
        ([nn.Conv2d(3, 6, 1), nn.Sequential(nn.Conv2d(6, 8, 1), nn.PixelShuffle(2))], MAPS),
        ([nn.Conv2d(3, 6, 1), nn.Sequential(nn.Flatten())], MAPS),
    ],
)
def test_sequential_does_not_guess(layers, shape):
    module = nn.Sequential(*layers, AconC())
    assert resolved(module) == (None, None)
    with pytest.raises(RuntimeError, match=rf"AconC at Sequential\.{len(layers)} {NO_CHANNELS}"):
        module(torch.randn(shape))


@pytest.mark.parametrize(
    "layers",
    [
        [],
        [nn.Conv2d(3, 5, 1), nn.Conv2d(5, 6, 1)],
        [nn.ModuleList([nn.Conv2d(3, 6, 1)])],
        [nn.Linear(3, 6), nn.BatchNorm1d(6)],
    ],
    ids=["nothing", "two numbers", "ModuleList", "two dimensions"],
)
def test_plain_module_does_not_guess(layers):
    module = Plain(*layers, AconC())
    assert resolved(module) == (None, None)
    with pytest.raises(RuntimeError, match=rf"AconC at Plain\.child{len(layers)} {NO_CHANNELS}"):
        acon_of(module)(torch.randn(2, 6))


def test_module_list_and_dict_do_not_guess():
    """They have no order of execution."""
    assert resolved(nn.ModuleList([nn.Conv2d(3, 6, 1), AconC()])) == (None, None)
    assert resolved(nn.ModuleDict(dict(conv=nn.Conv2d(3, 6, 1), act=AconC()))) == (None, None)


def test_alone():
    with pytest.raises(RuntimeError, match=f"^AconC {NO_CHANNELS}"):
        AconC()(torch.randn(2, 6))
    assert "channels from the layer before" in repr(AconC())


@pytest.mark.parametrize(
    "build",
    [
        lambda: ConvModule(3, 6, 1, act_cfg=dict(type="AconC", num_channels=8)),
        lambda: nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), AconC(8)),
    ],
)
def test_contradicted_num_channels(build):
    text = r"AconC at \w+\.\w+ was given num_channels=8, but the layer before it has 6 channels: leave num_channels out"
    with pytest.raises(ValueError, match=text):
        build()


def test_given_num_channels_are_kept_where_the_layer_before_is_a_guess():
    assert resolved(nn.Sequential(nn.Conv2d(3, 8, 1), nn.PixelShuffle(2), AconC(2))) == (2, None)
    assert resolved(Plain(nn.Conv2d(3, 6, 1), AconC(9))) == (9, None)


def test_given_channel_dim_is_kept():
    module = nn.Sequential(nn.Linear(3, 6), AconC(channel_dim=1))
    assert resolved(module) == (6, 1)


def test_given_num_channels_take_the_dimension():
    assert resolved(nn.Sequential(nn.Linear(3, 6), AconC(6))) == (6, -1)
    assert Plain(nn.Linear(3, 6), AconC(6))(torch.randn(TOKENS)).shape == (2, 5, 6)


def test_input_with_other_channels():
    with pytest.raises(ValueError, match=r"AconC at Sequential\.1 has 6 channels, at dimension 1, .* \(2, 3, 8, 8\)"):
        nn.Sequential(nn.Conv2d(3, 6, 1), AconC())[1](torch.randn(MAPS))


# Attached again


@pytest.mark.parametrize("again", [nn.SyncBatchNorm.convert_sync_batchnorm, lambda m: nn.Sequential(*m.children())])
def test_acons_with_channels_do_not_change_when_attached_again(again):
    module = nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), AconC(init="paper"), nn.Conv2d(6, 4, 1))
    acon = acon_of(module)
    before = {k: v.clone() for k, v in acon.state_dict().items()}
    assert acon_of(again(module)) is acon
    assert (acon.num_channels, acon.channel_dim) == (6, 1)
    assert_close(acon.state_dict(), before, rtol=0, atol=0)


def test_acons_without_channels_do_not_change_when_attached_again():
    module = nn.Sequential(nn.Flatten(), AconC(), nn.Linear(12, 10))
    assert resolved(nn.SyncBatchNorm.convert_sync_batchnorm(module)) == (None, None)


@pytest.mark.parametrize("num_channels", [None, 6])
def test_put_in_the_place_of_another_layer(num_channels):
    """The channels are those of the layers before that place, not of the last layers."""
    module = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1))
    module[1] = AconC(num_channels)
    assert resolved(module) == (6, 1)
    module(torch.randn(MAPS))


def test_other_modules_pass_the_hook_untouched():
    linear, conv = nn.Linear(3, 6), nn.Conv2d(3, 6, 1)
    before = [dict(vars(m)) for m in (linear, conv)]
    module = Plain(linear, nn.Sequential(conv), None)
    assert [dict(vars(m)) for m in (linear, conv)] == before
    assert module.child0 is linear and module.child1[0] is conv and module.child2 is None


def test_no_channels_before_the_start():
    assert channels_before(nn.Sequential(), "0") is None
