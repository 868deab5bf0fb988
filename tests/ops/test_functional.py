"""The mathematics: values, limits and gradients against the plain formula, which is written here independently."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import silu

from acon_mm import AconFReLU, MetaAconC
from acon_mm import functional as F
from acon_mm.compat import strict_zip
from acon_mm.ops import reference


def full(value, channels=1, dtype=torch.float64):
    return torch.full((channels,), value, dtype=dtype)


def uniform(*shape):
    return torch.empty(shape, dtype=torch.float64).uniform_(-2, 2).requires_grad_()


# Values


def test_hand_worked_values():
    # d = 2 * 2 = 4, beta d = 3.2, sigmoid(3.2) = 0.960834277: 4 * 0.960834277 - 0.5 * 2 = 2.843337109
    # x = -1: d = -2, beta d = -1.6, sigmoid(-1.6) = 0.167981615: -2 * 0.167981615 + 0.5 = 0.164036770
    x = torch.tensor([[2.0], [-1.0]], dtype=torch.float64)
    y = F.acon_c(x, full(1.5), full(-0.5), full(0.8))
    assert y.flatten().tolist() == pytest.approx([2.843337109, 0.164036770], abs=1e-9)


def test_hand_worked_gradients():
    # x = 2 as above: s(1-s) = 0.037631769, h = s + 3.2 * 0.037631769 = 1.081255939
    # df/dx = 2h - 0.5, df/dp1 = 2h, df/dp2 = 2(1-h), df/dbeta = 16 * 0.037631769
    x, p1, p2, beta = (v.requires_grad_() for v in (full(2.0).view(1, 1), full(1.5), full(-0.5), full(0.8)))
    F.acon_c(x, p1, p2, beta).backward()
    grads = [t.grad.item() for t in (x, p1, p2, beta)]
    assert grads == pytest.approx([1.662511878, 2.162511878, -0.162511878, 0.602108311], abs=1e-8)


def test_hand_worked_a_b_frelu_and_pixel():
    x = full(2.0).view(1, 1)
    # A: 2 sigmoid(1.6) = 2 * 0.832018385
    assert F.acon_a(x, full(0.8)).item() == pytest.approx(1.664036770, abs=1e-9)
    # B: (1-p) x = 1.5, beta * 1.5 = 1.2, sigmoid(1.2) = 0.768524783: 1.5 * 0.768524783 + 0.5
    assert F.acon_b(x, full(0.25), full(0.8)).item() == pytest.approx(1.652787175, abs=1e-9)
    # FReLU, eta_b = 0.5: 1.5 sigmoid(1.5) + 0.5 = 1.5 * 0.817574476 + 0.5
    assert F.acon_frelu(x, full(0.5).view(1, 1)).item() == pytest.approx(1.726361714, abs=1e-9)
    # pixel, k = 2: beta = 2 sigmoid(2) = 1.761594156, beta d = 3.523188312: 2 sigmoid(3.523188312) = 2 * 0.971340395
    assert F.acon_c_pixel(x, full(1.0), full(0.0), scale=2.0).item() == pytest.approx(1.942680789, abs=1e-9)


@pytest.mark.parametrize(("p1", "p2"), [(1.0, 0.0), (1.5, -0.5), (-0.3, 0.7), (0.4, 0.4)])
def test_limits_of_beta(p1, p2):
    x = torch.linspace(-3, 3, 60, dtype=torch.float64).view(-1, 1)
    for beta in (0.0, 1e-9):
        torch.testing.assert_close(F.acon_c(x, full(p1), full(p2), full(beta)), (p1 + p2) / 2 * x)
    hard = F.acon_c(x, full(p1), full(p2), full(1e4))
    torch.testing.assert_close(hard, torch.maximum(p1 * x, p2 * x))


def test_swish_is_silu():
    x = torch.randn(4, 3)
    zero, one = torch.zeros(3), torch.ones(3)
    for y in (F.acon_c(x, one, zero, one), F.acon_a(x, one), F.acon_b(x, zero, one)):
        torch.testing.assert_close(y, silu(x))


@pytest.mark.parametrize(("p1", "p2", "beta"), [(1.0, 0.0, 1.0), (1.5, -0.5, 0.8), (0.9, 0.1, 5.0)])
def test_extreme_slopes(p1, p2, beta):
    """The paper's bounds of the derivative, and where it reaches them."""
    z = torch.linspace(-6, 6, 20001, dtype=torch.float64)
    x = (z / (beta * (p1 - p2))).view(-1, 1).requires_grad_()
    (slope,) = torch.autograd.grad(F.acon_c(x, full(p1), full(p2), full(beta)).sum(), x)
    assert slope.max().item() == pytest.approx(1.09984 * p1 - 0.09984 * p2, abs=2e-5)
    assert slope.min().item() == pytest.approx(1.09984 * p2 - 0.09984 * p1, abs=2e-5)
    assert z[slope.argmax()].item() == pytest.approx(2.39936, abs=1e-3)
    assert z[slope.argmin()].item() == pytest.approx(-2.39936, abs=1e-3)


# Gradients against autograd of the plain formula, whose parameters are (1, C, 1, 1), as the authors'


def plain_a(x, p1, p2, beta):
    return x * torch.sigmoid(beta * x)


def plain_b(x, p1, p2, beta):
    return (1 - p1) * x * torch.sigmoid(beta * (1 - p1) * x) + p1 * x


def plain_c(x, p1, p2, beta):
    return (p1 - p2) * x * torch.sigmoid(beta * (p1 - p2) * x) + p2 * x


def plain_pixel(x, p1, p2, beta):
    return plain_c(x, p1, p2, 3 * torch.sigmoid(x))


@pytest.mark.parametrize(
    ("ours", "plain"),
    [
        (lambda x, p1, p2, beta: F.acon_a(x, beta), plain_a),
        (lambda x, p1, p2, beta: F.acon_b(x, p1, beta), plain_b),
        (F.acon_c, plain_c),
        (lambda x, p1, p2, beta: F.acon_c_pixel(x, p1, p2, scale=3.0), plain_pixel),
    ],
    ids=["A", "B", "C", "pixel"],
)
def test_equals_plain_formula(ours, plain):
    x, weight = uniform(2, 3, 4, 5), torch.randn(2, 3, 4, 5, dtype=torch.float64)
    parameters = [uniform(3) for _ in range(3)]
    theirs = [t.detach().view(1, 3, 1, 1).requires_grad_() for t in parameters]
    y, expected = ours(x, *parameters), plain(x, *theirs)
    torch.testing.assert_close(y, expected)
    got = torch.autograd.grad((y * weight).sum(), [x, *parameters], allow_unused=True)
    want = torch.autograd.grad((expected * weight).sum(), [x, *theirs], allow_unused=True)
    for g, w, t in strict_zip(got, want, [x, *parameters]):  # an unused parameter has no gradient, or one of zeros
        of_ours, of_theirs = (torch.zeros_like(t) if each is None else each.view_as(t) for each in (g, w))
        torch.testing.assert_close(of_ours, of_theirs)


@pytest.mark.parametrize("shape", [(2, 3), (2, 1)])
def test_beta_per_sample_equals_plain_formula(shape):
    x, p1, p2, beta = uniform(2, 3, 4, 5), uniform(3), uniform(3), uniform(*shape)
    got, want = (
        torch.autograd.grad(y.square().sum(), [x, p1, p2, beta])
        for y in (
            F.acon_c(x, p1, p2, beta),
            plain_c(x, p1.view(1, 3, 1, 1), p2.view(1, 3, 1, 1), beta[:, :, None, None]),
        )
    )
    torch.testing.assert_close(got, want)


# Gradients against finite differences

LAYOUTS = {
    "contiguous": lambda: uniform(2, 3, 2, 2),
    "transposed": lambda: uniform(2, 2, 2, 3).detach().permute(1, 3, 0, 2).requires_grad_(),
    "strided": lambda: uniform(2, 3, 2, 4).detach()[..., ::2].requires_grad_(),
    "channels_last": lambda: uniform(2, 3, 2, 2).detach().to(memory_format=torch.channels_last).requires_grad_(),
    "empty": lambda: uniform(0, 3, 2, 2),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", ["C", "NC", "N1"])
def test_gradcheck_acon_c(layout, shape):
    x = LAYOUTS[layout]()
    inputs = (x, uniform(3), uniform(3), uniform(*{"C": (3,), "NC": (len(x), 3), "N1": (len(x), 1)}[shape]))
    assert gradcheck(F.acon_c, inputs)
    assert gradgradcheck(F.acon_c, inputs)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("name", "parameters"), [("acon_a", 1), ("acon_b", 2), ("acon_c_pixel", 2), ("acon_frelu", 0)])
def test_gradcheck_others(layout, name, parameters):
    x = LAYOUTS[layout]()
    inputs = (x, *(uniform(3) for _ in range(parameters))) if parameters else (x, LAYOUTS[layout]())
    assert gradcheck(getattr(F, name), inputs)
    assert gradgradcheck(getattr(F, name), inputs)


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "channels_last", "empty"])
@pytest.mark.parametrize("name", ["channel", "layer", "pixel", "FReLU"])
def test_gradcheck_modules(layout, name):
    """Through the generator too, down to the input and every parameter."""
    # LN, since a batch norm turns any two values into nearly +-1, whose derivatives are beyond finite differences.
    module = MetaAconC(3, generator=name, r=3, init="paper", norm_cfg=dict(type="LN")) if name != "FReLU" else None
    module = (module or AconFReLU(3)).double()
    names, values = strict_zip(*module.named_parameters())

    def run(x, *parameters):
        return torch.func.functional_call(module, dict(strict_zip(names, parameters)), (x,))

    inputs = (LAYOUTS[layout](), *(v.detach().requires_grad_() for v in values))
    assert gradcheck(run, inputs)
    # Fast: one random projection of the second derivatives in place of all of them.
    assert gradgradcheck(run, inputs, fast_mode=True)


def test_gradient_only_where_asked():
    x, p1, p2, beta = torch.randn(2, 3), torch.ones(3), torch.zeros(3), torch.ones(3)
    F.acon_c(x, p1.requires_grad_(), p2, beta.requires_grad_()).sum().backward()
    assert x.grad is None and p2.grad is None
    assert p1.grad.shape == beta.grad.shape == (3,)


# Shapes


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 5), (2, 3, 4, 5), (2, 3, 2, 4, 5)])
@pytest.mark.parametrize(("name", "parameters"), [("acon_a", 1), ("acon_b", 2), ("acon_c", 3), ("acon_c_pixel", 2)])
def test_ranks_and_channel_dim(shape, name, parameters):
    x, function, parameters = uniform(*shape), getattr(F, name), [uniform(3) for _ in range(parameters)]
    y = function(x, *parameters)
    assert y.shape == x.shape
    for i in range(3):  # as an input of one channel
        torch.testing.assert_close(y[:, i : i + 1], function(x[:, i : i + 1], *(p[i : i + 1] for p in parameters)))
    for dim in (-1, len(shape) - 1):
        torch.testing.assert_close(function(x.movedim(1, -1), *parameters, channel_dim=dim), y.movedim(1, -1))


def test_the_gradient_of_a_half_beta_is_clamped_to_its_type():
    x, one = torch.full((1, 1, 64), 300.0), torch.ones(1)
    beta = torch.full((1,), 1e-4, dtype=torch.float16)
    grad = reference.backward(torch.ones_like(x), x, one, 0 * one, beta, 1)[3]
    assert grad.dtype == torch.float16 and grad.item() == torch.finfo(torch.float16).max
