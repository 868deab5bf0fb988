"""Dtypes, memory, huge inputs, and the modes of differentiation that are refused."""

import math

import pytest
import torch
from torch.autograd import forward_ad
from torch.nn.functional import silu

from acon_mm import AconA, AconB, AconC, AconFReLU, MetaAconC
from acon_mm import functional as F

MODULES = {
    "A": lambda c: AconA(c),
    "B": lambda c: AconB(c, init="paper"),
    "C": lambda c: AconC(c, init="paper"),
    "channel": lambda c: MetaAconC(c, init="paper"),
    "layer": lambda c: MetaAconC(c, init="paper", generator="layer"),
    "pixel": lambda c: MetaAconC(c, init="paper", generator="pixel"),
    "FReLU": lambda c: AconFReLU(c),
}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.bfloat16, 2**-7), (torch.float16, 2**-10), (torch.float64, 1e-5)], ids=str
)
def test_dtype_of_input_comes_back(name, dtype, tolerance):
    """Whatever the input, float32 parameters give the float32 result, rounded once."""
    module = MODULES[name](8)
    x = torch.randn(2, 8, 4, 4).to(dtype).requires_grad_()
    y = module(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), module(x.float()), rtol=tolerance, atol=tolerance)
    y.sum().backward()
    assert x.grad.dtype == dtype
    assert all(p.grad.dtype == torch.float32 for p in module.parameters())


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64], ids=str)
def test_only_floating_inputs(name, dtype):
    module = MODULES[name](4)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(TypeError, match=rf"takes an input of a floating dtype, got {dtype}: convert it by .float"):
        module(torch.ones(2, 4, 3, 3, dtype=dtype))
    torch.testing.assert_close(module.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("name", MODULES)
def test_autocast_keeps_bfloat16(name):
    module, x = MODULES[name](8), torch.randn(4, 8, 4, 4).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = module(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), module(x.float()), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("name", ["A", "B", "C", "channel", "layer", "pixel"])
@pytest.mark.parametrize("autocast", [False, True])
def test_keeps_only_its_input_for_backward(name, autocast):
    module = MODULES[name](8)
    x = torch.randn(4, 8, 32, 32, dtype=torch.bfloat16 if autocast else torch.float32, requires_grad=True)
    kept = {}

    def pack(t):
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), torch.autocast("cpu", enabled=autocast):
        module(x)
    size = x.untyped_storage().nbytes()
    assert kept.pop(x.untyped_storage().data_ptr()) == size
    assert sum(kept.values()) < size / 10


# Huge, infinite and undefined inputs


@pytest.mark.parametrize("beta", [1e-3, 1.0, 10.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_huge_inputs_have_finite_gradients(beta, dtype):
    """z * s * (1 - s) must not become inf * 0."""
    sizes = [0.0, 1e-30, 1.0, 88.0, 1e3, 1e10, 1e19, 1e30]
    x = torch.tensor([*sizes, *(-s for s in sizes)], dtype=dtype).view(-1, 1).requires_grad_()
    p1, p2, b = (torch.tensor([v], requires_grad=True) for v in (1.5, -0.5, beta))
    y = F.acon_c(x, p1, p2, b)
    y.backward(torch.ones_like(y))
    large = x.abs() * beta > 100
    torch.testing.assert_close(y[large], torch.maximum(1.5 * x, -0.5 * x)[large])
    torch.testing.assert_close(x.grad[large], torch.where(x > 0, 1.5, -0.5).to(dtype)[large])
    assert all(t.isfinite().all() for t in (y, x.grad, p1.grad, p2.grad, b.grad))


@pytest.mark.parametrize("name", ["channel", "layer", "pixel"])
@pytest.mark.parametrize("size", [1e10, 1e25, 1e30])
@pytest.mark.parametrize("sign", [1, -1])
def test_huge_inputs_of_meta_have_no_nan(name, size, sign):
    """Where beta, a sigmoid of the input, goes to 0 or 1, its share of the gradient vanishes."""
    module = MODULES[name](2)
    x = torch.full((2, 2, 2, 2), sign * size)
    x[0, 0, 0, 0] = 1.0
    y = module(x.requires_grad_())
    y.sum().backward()
    assert y.isfinite().all()
    assert not any(t.grad.isnan().any() for t in (x, *module.parameters()))


@pytest.mark.parametrize("name", ["channel", "channel without norms", "layer", "pixel"])
@pytest.mark.parametrize("parameters", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [1.0, 12.0, 100.0, 512.0, 6e4])
@pytest.mark.parametrize("beta_scale", [1.0, 80.0])
def test_half_precision_of_meta_has_no_nan(name, dtype, parameters, size, beta_scale):
    """beta and its gradient, a sum of squares, are beyond float16 where x is not."""
    options = dict(generator=name.partition(" ")[0], init="paper", beta_scale=beta_scale)
    module = MetaAconC(4, norm_cfg=None if "without" in name else dict(type="BN"), **options).to(parameters)
    signs = torch.tensor([-1.0, -1.0, 1.0, -1.0]).view(4, 1, 1)
    for x in (-torch.ones(2, 4, 3, 3), signs.expand(2, 4, 3, 3), torch.randn(2, 4, 3, 3).clamp(-1, 1)):
        module.zero_grad()
        x = (size * x).to(dtype).requires_grad_()
        y = module(x)
        y.float().sum().backward()
        assert not any(t.isnan().any() for t in (y, x.grad, *(p.grad for p in module.parameters())))


@pytest.mark.parametrize("name", ["layer", "pixel"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_beta_in_half_precision_is_that_of_float32(name, dtype):
    module = MODULES[name](8)
    x = torch.randn(2, 8, 4, 4).mul(4).to(dtype)
    found, exact = (each.requires_grad_() for each in (x.clone(), x.float()))
    rounding = dict(rtol=torch.finfo(dtype).eps, atol=torch.finfo(dtype).tiny)
    y, wanted = module(found), module(exact)
    torch.testing.assert_close(y.float(), wanted, **rounding)
    (grad,), (grad_wanted,) = torch.autograd.grad(y.sum(), found), torch.autograd.grad(wanted.sum(), exact)
    torch.testing.assert_close(grad.float(), grad_wanted, rtol=rounding["rtol"], atol=rounding["rtol"])


def test_infinite_and_undefined_inputs():
    """inf and -inf become p1 * inf and p2 * -inf, NaN stays NaN."""
    x = torch.tensor([[math.inf], [-math.inf], [math.nan], [1.0]], requires_grad=True)
    y = F.acon_c(x, *(torch.tensor([v]) for v in (1.5, -0.5, 1.0)))
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert y[:2].flatten().tolist() == [math.inf, math.inf] and y[2].isnan() and y[3].isfinite()
    assert grad[:2].flatten().tolist() == [1.5, -0.5] and grad[2].isnan() and grad[3].isfinite()


def test_infinite_inputs_of_swish_are_those_of_silu():
    """0 * -inf is undefined, there and here."""
    x = torch.tensor([[math.inf], [-math.inf], [math.nan]])
    y = F.acon_c(x, *(torch.tensor([v]) for v in (1.0, 0.0, 1.0)))
    torch.testing.assert_close(y, silu(x), equal_nan=True)


# Better no derivative than a wrong one


@pytest.mark.parametrize(("name", "parameters"), [("acon_c", 3), ("acon_c_pixel", 2)])
def test_forward_mode_and_functorch_are_refused(name, parameters):
    x, tangent, ones = torch.randn(2, 3), torch.ones(2, 3), [torch.ones(3)] * parameters

    def function(x):
        return getattr(F, name)(x, *ones)

    with forward_ad.dual_level(), pytest.raises((NotImplementedError, RuntimeError), match="jvp"):
        function(forward_ad.make_dual(x, tangent))
    for transform in (
        lambda: torch.func.jvp(function, (x,), (tangent,)),
        lambda: torch.func.grad(lambda x: function(x).sum())(x),
    ):
        with pytest.raises(RuntimeError, match=r"functorch transforms|jvp is not implemented"):
            transform()


@pytest.mark.parametrize(("name", "parameters"), [("acon_c", 3), ("acon_c_pixel", 2)])
def test_vmap_is_right_or_refused(name, parameters):
    x, ones = torch.randn(4, 2, 3), [torch.ones(3)] * parameters
    function = getattr(F, name)
    try:
        y = torch.func.vmap(lambda x: function(x, *ones))(x)
    except RuntimeError as error:
        assert "functorch transforms" in str(error)
    else:
        torch.testing.assert_close(y, torch.stack([function(sample, *ones) for sample in x]))


@pytest.mark.parametrize("norm_cfg", [dict(type="BN"), None])
@pytest.mark.parametrize("training", [True, False])
def test_meta_refuses_forward_mode_and_functorch(norm_cfg, training):
    module = MetaAconC(3, norm_cfg=norm_cfg, init="paper").train(training)
    x, tangent = torch.randn(4, 3, 2, 2), torch.randn(4, 3, 2, 2)
    with forward_ad.dual_level(), pytest.raises((NotImplementedError, RuntimeError), match="jvp"):
        module(forward_ad.make_dual(x, tangent))
    for transform in (
        lambda: torch.func.jvp(module, (x,), (tangent,)),
        lambda: torch.func.grad(lambda x: module(x).sum())(x),
        lambda: torch.func.vmap(module)(torch.stack([x, x])),
    ):
        with pytest.raises(RuntimeError, match=r"functorch|Batch|captured Tensor|jvp is not implemented"):
            transform()
