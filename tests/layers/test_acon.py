"""The modules: shapes, errors, initial values, models that initialize their parts, state dicts."""

import math
import re
from copy import deepcopy
from itertools import product

import pytest
import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import nn
from torch.nn.functional import conv2d, relu, silu
from torch.testing import assert_close

from acon_mm import AconA, AconB, AconC, AconFReLU, MetaAconC
from acon_mm.compat import strict_zip
from acon_mm.layers import RELU_BETA, Acon
from helpers.by_hand import NORMS, norm_by_hand


def state(module):
    return {k: v.clone() for k, v in module.state_dict().items()}


@pytest.mark.parametrize("out_norm", [True, False])
def test_frelu_equals_the_authors_form(out_norm):
    module = AconFReLU(4, out_norm=out_norm).double()
    nn.init.normal_(module.conv_frelu.weight)
    conv = nn.Conv2d(4, 4, 3, padding=1, groups=4).double()
    conv.load_state_dict(module.conv_frelu.state_dict())
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    eta = nn.BatchNorm2d(4).double()(conv(x))
    expected = (x - eta) * torch.sigmoid(x - eta) + eta
    assert_close(module(x), nn.BatchNorm2d(4).double()(expected) if out_norm else expected)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("training", [True, False])
def test_frelu_with_every_norm(norm, training):
    module = AconFReLU(4, norm_cfg=NORMS[norm]).double().train(training)
    for p in (*module.parameters(), *(b for b in module.buffers() if b.is_floating_point())):
        nn.init.uniform_(p, 0.5, 2)
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    eta = conv2d(x, module.conv_frelu.weight, module.conv_frelu.bias, padding=1, groups=4)
    eta = norm_by_hand(module.bn1, eta, batch_statistics=training)
    d = x - eta
    expected = norm_by_hand(module.bn2, d * torch.sigmoid(d) + eta, batch_statistics=training)
    assert_close(module(x), expected)


def stored(x, channels_last):
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if channels_last else x.contiguous()


@pytest.mark.parametrize("shape", [(5,), (4, 5), (1, 5), (4, 1), (3, 4, 5), (1, 4, 5), (3, 1, 1)])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("training", [True, False])
def test_frelu_with_layouts_mixed(shape, batch, training):
    """Batch norm of PyTorch 2.13 has wrong gradients behind a reshape, with a batch of 1."""
    module = AconFReLU(6).train(training)
    nn.init.normal_(module.conv_frelu.weight)
    x, grad = torch.randn(batch, 6, *shape), torch.randn(batch, 6, *shape)
    exact = x.double().requires_grad_()
    (wanted,) = torch.autograd.grad(deepcopy(module).double()(exact), exact, grad.double())
    for x_last, grad_last in product([False, True], repeat=2):
        x = stored(x.detach(), x_last).requires_grad_()
        (found,) = torch.autograd.grad(module(x), x, stored(grad, grad_last))
        assert_close(found.double(), wanted, rtol=1e-3, atol=1e-3)


# Shapes and options


@pytest.mark.parametrize("shape", [(2, 6), (2, 6, 5), (2, 6, 4, 5), (2, 6, 2, 4, 5)])
@pytest.mark.parametrize("name", ["A", "B", "C", "channel", "layer", "pixel", "FReLU"])
def test_ranks_and_channels_last(shape, name):
    if name in ("channel", "layer", "pixel"):
        options = dict(generator=name, r=2, init="paper", batch_first=True)
        first, last = (MetaAconC(6, channel_dim=d, **options) for d in (None, -1))
    else:
        cls = {"A": AconA, "B": AconB, "C": AconC, "FReLU": AconFReLU}[name]
        first, last = cls(6), cls(6, channel_dim=-1, batch_first=True)
    last.load_state_dict(first.state_dict())
    x = torch.randn(shape)
    y = first.eval()(x)
    assert y.shape == x.shape
    assert_close(last.eval()(x.movedim(1, -1)), y.movedim(1, -1))


def test_after_linear_and_layer_norm():
    x = torch.randn(2, 5, 4)
    block = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), AconC(init="paper"), nn.Dropout(0.0), MetaAconC(r=2))
    block[4].batch_first = True
    for index, expected in ((2, AconC(6)), (4, MetaAconC(6, r=2))):
        expected.load_state_dict(block[index].state_dict())
        before = block[:index](x)
        assert_close(block[index](before), expected(before.movedim(-1, 1)).movedim(1, -1))


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: AconC(4, init="silu"), "init must be one of 'paper', 'swish', 'relu', got 'silu'"),
        (lambda: AconC(4, inplace="x"), "inplace must be one of False, True, got 'x'"),
        (lambda: MetaAconC(4, init="silu"), "init must be one of 'paper', 'swish', 'relu', got 'silu'"),
        (lambda: AconFReLU(4, init="swish"), "init must be one of 'paper', got 'swish'"),
        (lambda: MetaAconC(4, generator="batch"), "generator must be one of 'channel', 'layer', 'pixel', got 'batch'"),
        (lambda: MetaAconC(4, norm_cfg=dict(type="IN")), "'IN'.* normalizes over space, .* use dict.type='BN'"),
        (
            lambda: AconC(4)(torch.randn(2, 5)),
            r"AconC has 4 channels, at dimension 1, .* shape \(2, 5\): set num_channels",
        ),
        (lambda: AconC(4)(torch.randn(4)), r"AconC has 4 channels, at dimension 1, .* shape \(4,\)"),
        (lambda: AconC(4, channel_dim=-1)(torch.randn(2, 4, 3)), r"at dimension -1, .* channel_dim=-1 where channels"),
        (lambda: AconC(4, channel_dim=3)(torch.randn(2, 4)), r"at dimension 3, .* shape \(2, 4\)"),
    ],
)
def test_bad_values_are_named(build, text):
    with pytest.raises(ValueError, match=text):
        build()


COUNT = "must be an int from 1 to 65536, got"
ALL = (AconA, AconB, AconC, MetaAconC, AconFReLU)


@pytest.mark.parametrize(
    ("option", "classes", "values", "text"),
    [
        (
            "num_channels",
            ALL,
            [0, -1, 4.0, True, False, "4", 100_000, 10**30, (4,)],
            f"{COUNT} .*: leave it out to take it from the layer before",
        ),
        ("r", (MetaAconC,), [0, -16, 2.0, True, "16", 10**9, None], f"{COUNT} .*: 16 is the authors' and the default"),
        (
            "beta_scale",
            (MetaAconC,),
            [0, -1.0, math.inf, -math.inf, math.nan, True, "2", (1,)],
            "must be a positive and finite number, got .*: leave it out for that of init",
        ),
        ("channel_dim", ALL, [0, True, False, "1", 1.0, (1,)], "must be an int and not 0, .*, got .*: use 1, or -1"),
    ],
)
def test_bad_options_are_refused_at_build(option, classes, values, text):
    for cls, value in product(classes, values):
        with pytest.raises(ValueError, match=f"^{option} {text}") as caught:
            cls(**{"num_channels": 4, option: value})
        assert f"got {value!r}" in str(caught.value)


@pytest.mark.parametrize("cls", [MetaAconC, AconFReLU])
@pytest.mark.parametrize(
    "norm_cfg",
    [
        *(dict(type="XN"), dict(type="GN"), dict(type="GN", num_groups=3), dict(type="BN", momentun=0.1)),
        *(dict(type="ReLU"), dict(), "BN", True),
    ],
    ids=str,
)
def test_bad_norms_are_refused_at_build(cls, norm_cfg):
    text = f"norm_cfg={re.escape(repr(norm_cfg))} is no config of a norm for \\d+ channels: .*Use dict.type='BN'"
    with pytest.raises(ValueError, match=text) as caught:
        cls(4, norm_cfg=norm_cfg)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=text):
        nn.Sequential(nn.Conv2d(3, 4, 1), cls(norm_cfg=norm_cfg))  # where the channels come from the layer before


def test_base_class_is_no_activation():
    with pytest.raises(TypeError, match="Acon is a base class: build AconA, AconB, AconC, MetaAconC or AconFReLU"):
        Acon(4)


def test_inplace_changes_nothing():
    x = torch.randn(2, 4)
    before, y = x.clone(), AconC(4, inplace=True)(x)
    assert_close(x, before, rtol=0, atol=0)
    assert y.data_ptr() != x.data_ptr()


# Initial values


def test_initial_values():
    assert_close(AconC(3).state_dict(), dict(p1=torch.ones(3), p2=torch.zeros(3), beta=torch.ones(3)))
    assert_close(AconC(3, init="relu").beta.data, torch.full((3,), RELU_BETA))
    assert_close(AconB(3, init="paper").state_dict(), dict(p=torch.full((3,), 0.25), beta=torch.ones(3)))
    assert_close(AconA(3).beta.data, torch.ones(3))
    paper = AconC(4096, init="paper")
    for p in (paper.p1, paper.p2):
        assert abs(p.mean()) < 0.08 and abs(p.std() - 1) < 0.06  # 5 standard errors
    assert_close(paper.beta.data, torch.ones(4096))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "build",
    [AconA, AconB, AconC, *(lambda c, norm=norm, **kw: MetaAconC(c, norm_cfg=NORMS[norm], **kw) for norm in NORMS)],
    ids=["A", "B", "C", *(f"Meta-{norm}" for norm in NORMS)],
)
def test_swish_and_relu_inits(build, training):
    x = torch.linspace(-4, 4, 8 * 1000).view(1000, 8)[..., None, None]
    assert_close(build(8, init="swish").train(training)(x), silu(x))
    worst = (build(8, init="relu").train(training)(x) - relu(x)).abs().max().item()
    assert worst == pytest.approx(0.2785 / RELU_BETA, rel=1e-2)


@pytest.mark.parametrize("init", ["paper", "swish", "relu"])
@pytest.mark.parametrize("cls", [AconA, AconB, AconC, MetaAconC])
def test_reset_parameters_undoes_training(cls, init):
    fresh, used = cls(4, init=init), cls(4, init=init)
    built = state(used)
    used(torch.randn(8, 4, 3, 3) + 5)  # moves running statistics
    for p in used.parameters():
        nn.init.normal_(p)
    for module in (fresh, used):
        torch.manual_seed(3)
        module.reset_parameters()
    assert_close(used.state_dict(), fresh.state_dict(), rtol=0, atol=0)
    fixed = [name for name in built if (init != "paper" and "fc" not in name) or name in ("beta", "p")]
    assert all(torch.equal(used.state_dict()[name], built[name]) for name in fixed)


class InitHost(BaseModule):
    def __init__(self, init_cfg):
        super().__init__(init_cfg)
        self.conv = nn.Conv2d(3, 6, 1)
        self.act = MetaAconC(init="paper")
        self.block = nn.Sequential(nn.Linear(6, 6), MetaAconC(), nn.BatchNorm2d(6), AconFReLU())


LAYERS = ["Conv2d", "Linear", "BatchNorm2d", "_BatchNorm"]


@pytest.mark.parametrize(
    "init_cfg",
    [
        dict(type="Normal", layer=LAYERS, std=7.0, bias=5.0),
        dict(type="Constant", layer=LAYERS, val=7.0, bias=5.0),
        dict(type="Kaiming", layer=["Conv2d", "Linear"], bias=5.0),
        [dict(type="TruncNormal", layer="Conv2d", std=7.0), dict(type="Xavier", layer="Linear", bias=5.0)],
    ],
)
def test_init_cfg_of_a_host_stops_at_an_acon(init_cfg):
    host = InitHost(init_cfg)
    acons = [host.act, host.block[1], host.block[3]]
    before, conv = [state(m) for m in acons], host.conv.weight.clone()
    host.init_weights()
    assert not torch.equal(host.conv.weight, conv)
    for module, values in strict_zip(acons, before):
        assert_close(module.state_dict(), values, rtol=0, atol=0)


def test_host_that_initializes_by_class_stops_at_an_acon():
    """The init_weights of some heads loops over convolutions and linear layers. It finds none inside an ACON."""
    host = InitHost(None)
    acons = [host.act, host.block[1], host.block[3]]
    before = [state(m) for m in acons]
    for m in host.modules():
        if isinstance(m, (nn.Conv2d, nn.Linear)):
            nn.init.constant_(m.weight, 7.0)
    for module, values in strict_zip(acons, before):
        assert_close(module.state_dict(), values, rtol=0, atol=0)


# State dicts


@pytest.mark.parametrize("cls", [AconA, AconB, AconC, MetaAconC, AconFReLU])
def test_state_dict_round_trip(cls):
    source, target = cls(6), cls(6)
    for p in source.parameters():
        nn.init.normal_(p)
    source(torch.randn(4, 6, 3, 3))  # moves running statistics
    target.load_state_dict(source.state_dict())
    x = torch.randn(2, 6, 3, 3)
    assert_close(target.eval()(x), source.eval()(x), rtol=0, atol=0)


def test_authors_shapes_load_and_the_given_dict_stays():
    given = {k: torch.randn(1, 6, 1, 1) for k in ("p1", "p2", "beta")}
    module = nn.Sequential(nn.Conv2d(3, 6, 1), AconC())
    module.load_state_dict({**module.state_dict(), **{f"1.{k}": v for k, v in given.items()}})
    for name, value in given.items():
        assert_close(getattr(module[1], name).data, value.flatten())
        assert value.shape == (1, 6, 1, 1)


@pytest.mark.parametrize("shape", [(5,), (1, 5, 1, 1), (1, 1, 6, 1)])
def test_state_dict_of_another_number_of_channels(shape):
    given = {k: torch.ones(shape) for k in ("p1", "p2", "beta")}
    with pytest.raises(RuntimeError, match=r"size mismatch for p1.*the shape in current model is torch.Size\(\[6\]\)"):
        AconC(6).load_state_dict(given)


def test_registered_and_refused_by_name():
    for name in ("AconA", "AconB", "AconC", "MetaAconC", "AconFReLU"):
        assert isinstance(MODELS.build(dict(type=name, num_channels=4)), Acon)
    assert "Acon" not in MODELS.module_dict


@pytest.mark.parametrize("make", [MetaAconC, lambda *a, **kw: MetaAconC(*a, generator="layer", **kw), AconFReLU])
def test_tokens_of_one_picture_do_not_change_another(make):
    """(L, N, C), as nn.MultiheadAttention has them, and (N, L, C)."""
    torch.manual_seed(0)
    x = torch.randn(5, 2, 8)
    activation = make(8, channel_dim=-1, batch_first=False).eval()
    for parameter in activation.parameters():
        nn.init.normal_(parameter)
    y = activation(x)
    other = x.clone()
    other[:, 1] += 1
    assert_close(activation(other)[:, 0], y[:, 0])
    activation.batch_first = True
    assert_close(activation(x.transpose(0, 1)), y.transpose(0, 1))
    with pytest.raises(ValueError, match=r"got tokens of shape \(5, 2, 8\), .*: add batch_first=True to its act_cfg"):
        make(8, channel_dim=-1)(x)
    assert make(8, channel_dim=-1)(torch.randn(4, 3, 5, 8)).shape == (4, 3, 5, 8)  # maps have the batch first


@pytest.mark.parametrize("cls", [AconA, AconB, AconC, lambda *a, **kw: MetaAconC(*a, generator="pixel", **kw)])
def test_tokens_are_alike_where_values_do_not_meet(cls):
    torch.manual_seed(0)
    x, activation = torch.randn(5, 2, 8), cls(8, channel_dim=-1)
    assert_close(activation(x).transpose(0, 1), activation(x.transpose(0, 1)))


@pytest.mark.parametrize("batch_first", [0, "yes", 1])
def test_batch_first_is_a_bool(batch_first):
    with pytest.raises(ValueError, match="batch_first must be True, False or None, got"):
        AconC(4, batch_first=batch_first)


@pytest.mark.parametrize(
    ("groups", "reason"), [(32, "32 groups do not divide them"), (16, "a group for each of the 16 channels")]
)
def test_groups_that_the_generator_cannot_have(groups, reason):
    """The error names module and channels, and its way out works."""
    norm_cfg = dict(type="GN", num_groups=groups)
    with pytest.raises(ValueError, match=rf"MetaAconC at Sequential.1: norm_cfg=.*{reason}.*num_groups=8") as caught:
        nn.Sequential(nn.Conv2d(3, 64, 1), MetaAconC(norm_cfg=norm_cfg))
    assert "16 channels" in str(caught.value)
    model = nn.Sequential(nn.Conv2d(3, 64, 1), MetaAconC(norm_cfg=dict(type="GN", num_groups=8)))
    assert model(torch.randn(1, 3, 4, 4)).shape == (1, 64, 4, 4)


@pytest.mark.parametrize("act", [AconC, MetaAconC])
def test_scripting_is_refused_by_name(act):
    with pytest.raises(RuntimeError, match=f"torch.jit.script cannot compile {act.__name__}.*: use torch.jit.trace"):
        torch.jit.script(nn.Sequential(act(4)))
