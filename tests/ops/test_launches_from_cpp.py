"""The launches from C++, on the stand-in for a GPU. ``test_gpu.py`` runs this in a process of its own."""

import copy
import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from acon_mm.compat import strict_zip
from acon_mm.layers import AconA, AconC, MetaAconC
from acon_mm.ops import functional as F
from acon_mm.ops.memory import recompute_outputs
from helpers import stub_device
from helpers.exactness import assert_exact, layouts, parameters_for, run
from helpers.kernels import NORMS, buffers, fused, meta_inputs, to, unfused
from helpers.normed import Block
from helpers.recomputation import C, gradients, picture

stub_device.start()


@pytest.fixture(scope="module", autouse=True)
def kernels_for_real_gpus():
    """Writes down the kernels that were asked for, a few of each name, without a norm before and with one."""
    yield
    few: dict[tuple, list[dict]] = {}
    for told in sorted(stub_device.compilations, key=lambda told: -sum(told["divisors"])):  # the best aligned
        same = few.setdefault((told["name"], stub_device.constants_of(told).get("NORMED")), [])
        if len(same) < 2:
            same.append(told)
    Path(os.environ["STUB_DEVICE_KERNELS"]).write_text(json.dumps([told for same in few.values() for told in same]))


def launches_of(function) -> list[str]:
    before = len(stub_device.launches)
    function()
    return [launch.kernel for launch in stub_device.launches[before:]]


def test_values_and_gradients():
    for x, dim in layouts((2, 5, 7, 9), torch.float32).values():
        for beta_shape in ("C", "NC", "N1"):
            assert_exact(F.acon_c, x, parameters_for(x, dim, beta_shape), dim)


@pytest.mark.parametrize("shape", [(3, 16, 4, 4), (2, 2, 32, 48), (2, 2, 1025), (2, 4, 3, 2, 3), (10, 64)], ids=str)
def test_shapes(shape):
    """Of all kernels, in words of 16 bytes and in narrower ones."""
    some = layouts(shape, torch.float16)
    for x, dim in (some["contiguous"], some["channels_last"]):
        for beta_shape in ("C", "NC"):
            assert_exact(F.acon_c, x, parameters_for(x, dim, beta_shape), dim)


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 3, 0, 4), (0, 3)], ids=str)
def test_empty(shape):
    x = torch.randn(shape)
    for beta_shape in ("C", "NC", "N1"):
        y, grad_x, *grads = run(F.acon_c, x, parameters_for(x, 1, beta_shape), 1, x)
        assert y.shape == grad_x.shape == x.shape and all((g == 0).all() for g in grads)


@pytest.mark.parametrize(
    ("shape", "norm"),
    [
        *(((3, 5, 7, 9), norm) for norm in NORMS),
        *(((66, 2, 2, 1), norm) for norm in NORMS),  # more samples than a tile has
        ((4, 40, 3, 3), "batch"),
        ((4, 3, 32, 48), "none"),
    ],
)
def test_meta_acon(shape, norm):
    tensors, generator = meta_inputs(shape, 4, norm, torch.float32)
    if shape[1] == 40:  # channels_last
        last = tensors[0].detach().movedim(1, -1).contiguous().movedim(-1, 1)
        tensors[0] = last.requires_grad_()
    exact_tensors, exact_generator = to(tensors, generator, torch.float64)
    y, wanted = fused(tensors, generator), unfused(exact_tensors, exact_generator)
    torch.testing.assert_close(y.double(), wanted, rtol=1e-4, atol=1e-4)
    grad = torch.randn(shape)
    grads = torch.autograd.grad(y, (*tensors, *generator.learned()), grad)
    wanted = torch.autograd.grad(wanted, (*exact_tensors, *exact_generator.learned()), grad.double())
    for got, want in strict_zip(grads, wanted):
        torch.testing.assert_close(got.double(), want, rtol=1e-3, atol=1e-3 * want.abs().max().item() + 1e-5)
    for got, want in strict_zip(buffers(generator), buffers(exact_generator)):
        torch.testing.assert_close(got.double(), want.double(), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:(invalid value|overflow)")  # NumPy's, in the interpreter
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_running_statistics_take_no_batch_that_is_not_finite(value):
    tensors, generator = meta_inputs((3, 4, 2, 3), 2, "batch", torch.float32)
    before = [t.clone() for t in buffers(generator)]
    with torch.no_grad():
        tensors[0][0, 2] = value
    fused(tensors, generator)
    assert all(torch.equal(*pair) for pair in strict_zip(buffers(generator)[:2], before[:2]))
    assert all(t.isfinite().all() for t in buffers(generator))


@pytest.mark.parametrize("shape", [(2, 8, 5, 5), (2, 2, 32, 32), (16, 2, 3, 3)], ids=str)
def test_number_of_launches(shape):
    x = torch.randn(shape, requires_grad=True)
    for module, forward, backward in ((AconC(shape[1]), 1, 2), (MetaAconC(shape[1], r=2), 4, 6)):
        y = module(x)
        assert len(launches_of(lambda module=module: module(x))) == forward
        assert len(launches_of(lambda y=y: y.sum().backward())) == backward


def test_sums_are_left_out_where_nobody_needs_them():
    x = torch.randn(2, 8, 5, 5, requires_grad=True)
    module = AconC(8).requires_grad_(False)
    assert launches_of(lambda: module(x).sum().backward()) == ["forward_flat", "backward_flat"]
    assert stub_device.launches[-1].constants["SUMS"] == 0 and module.p1.grad is None and x.grad is not None
    module = AconA(8)
    launches_of(lambda: module(x.detach()).sum().backward())
    assert stub_device.launches[-2].constants["GRAD_X"] == 0 and module.beta.grad is not None


def assert_step_is_exact(
    net: nn.Module, x: torch.Tensor, dtype: torch.dtype = torch.float32, tolerance: float = 1e-5
) -> None:
    """The gradients are those in float64, which PyTorch's operators compute one by one."""
    exact = copy.deepcopy(net).double()
    wanted = gradients(exact, x, lambda x: exact(x.to(dtype).double()))
    found: list[torch.Tensor] = []
    launched = launches_of(lambda: found.extend(gradients(net, x, lambda x: net(x.to(dtype) * 1.0))))
    assert "norm_values" in launched
    greatest = max(each.abs().max() for each in wanted)
    for a, b in strict_zip(found, wanted):
        assert (a - b).abs().max() <= tolerance * greatest


@pytest.mark.parametrize(
    ("norm", "act"),
    [("training", "AconC"), ("evaluation", "AconC"), ("without weights", "AconB"), ("large eps", "AconA")],
)
def test_a_norm_before(norm, act):
    assert_step_is_exact(Block(norm, act), picture()[:1])


@pytest.mark.parametrize(
    ("norm", "act", "last"),
    [
        ("training", "MetaAconC", False),
        ("training", "MetaAconC no norm", True),
        ("evaluation", "MetaAconC", True),
        ("evaluation", "MetaAconC no norm", False),
    ],
)
def test_a_norm_before_meta_acon(norm, act, last):
    torch.manual_seed(0)
    net = Block(norm, act, r=4).to(memory_format=torch.channels_last if last else torch.contiguous_format)
    for module in net.act.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight)
    assert_step_is_exact(net, torch.randn(4, 3, 32, 32) + torch.randn(4, 3, 1, 1), tolerance=2e-5)


@pytest.mark.parametrize(
    ("shape", "last", "training"),
    [
        ((1, C, 64, 65), False, True),
        ((5, C, 29, 29), False, True),
        ((5, C, 29, 29), False, False),
        ((5, C, 29, 29), True, True),
        ((5, C, 29, 29), True, False),
        ((2, C, 5, 20, 21), False, True),
    ],
)
def test_shapes_with_a_norm_before(shape, last, training):
    """Planes, parts of planes, and rows; with batch statistics, a second pass needs what the first one has summed."""
    torch.manual_seed(0)
    norm = {4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape)](C)
    nn.init.normal_(norm.weight)
    x = torch.randn(shape) * 3 + 1
    x = x.movedim(1, -1).contiguous().movedim(-1, 1) if last else x
    assert_step_is_exact(nn.Sequential(norm, AconC(C, init="paper", inplace=True)).train(training), x)


@pytest.mark.parametrize("frozen", [["weight", "bias"], ["weight"], ["bias"]], ids=" ".join)
def test_a_frozen_norm_before(frozen):
    net = Block("evaluation")
    for name in frozen:
        getattr(net.norm, name).requires_grad_(False)
    assert_step_is_exact(net, picture()[:1])


def test_a_norm_before_in_half_precision():
    net = nn.Sequential(nn.BatchNorm2d(C), AconC(C, init="paper", inplace=True))
    assert_step_is_exact(net, torch.randn(2, C, 64, 64), torch.float16, 2e-3)


@pytest.mark.parametrize(
    ("act", "norm", "forward", "backward"),
    [("AconC", "training", 2, 3), ("AconC", "evaluation", 2, 2), ("MetaAconC no norm", "training", 5, 7)],
)
def test_number_of_launches_with_a_norm_before(act, norm, forward, backward):
    net, y = Block(norm, act), []
    assert len(launches_of(lambda: y.append(net.act(net.norm(net.conv(picture()[:1])))))) == forward
    assert len(launches_of(lambda: y[0].sum().backward())) == backward


def test_the_output_is_made_again_in_one_launch():
    net = Block()
    loss = net(picture()[:1]).square().mean()
    recompute_outputs(loss)
    assert launches_of(loss.backward)[0] == "forward_planes" and stub_device.launches[-4].constants["NORMED"] == 1


def test_double_backward_with_a_norm_before():
    net, found = Block(), []
    for each, x in ((net, picture()[:1]), (copy.deepcopy(net).double(), picture()[:1].double())):
        x.requires_grad_()
        (grad,) = torch.autograd.grad(each(x).square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(grad.square().sum(), x)[0].double())
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5 * found[1].abs().max().item())


def test_a_kernel_is_compiled_once():
    x, module = torch.randn(2, 8, 5, 5), AconC(8)
    module(x)
    before = len(stub_device.compilations)
    module(x)
    module(torch.randn(4, 8, 5, 5))  # other sizes are arguments
    assert len(stub_device.compilations) == before
    module(torch.randn(4 * 8 * 25 + 1)[1:].view(4, 8, 5, 5))  # an address that is not a multiple of 16
    assert len(stub_device.compilations) == before + 1


def test_gradients_of_gradients():
    x = torch.randn(2, 4, 3, 3, requires_grad=True)
    for module in (AconC(4, init="paper"), MetaAconC(4, init="paper", norm_cfg=None)):
        exact = type(module)(4, **({} if isinstance(module, AconC) else dict(norm_cfg=None))).double()
        exact.load_state_dict(module.state_dict())
        found = []
        for m, start in ((module, x), (exact, x.detach().double().requires_grad_())):
            (grad,) = torch.autograd.grad(m(start).square().sum(), start, create_graph=True)
            (second,) = torch.autograd.grad(grad.square().sum(), start)
            found.append(second.double())
        torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)
