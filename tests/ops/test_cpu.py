"""The compiled kernels and the reference: ACON-C and the mean against float64 autograd of the plain formula."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from acon_mm import functional as F
from acon_mm.compat import cpu_capability, strict_zip
from acon_mm.ops import cpu as compiled
from acon_mm.ops import operators, reference
from helpers.exactness import assert_create_graph_changes_nothing, assert_exact, layouts, parameters_for, run
from helpers.kernels import NEEDS_COMPILED, buffers, fused, meta_inputs

HERE = Path(__file__).parent
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
BACKENDS = [pytest.param("compiled", marks=NEEDS_COMPILED), "reference"]


def implementation(name: str):
    """``F.acon_c`` by one implementation."""
    return F.acon_c if name == "compiled" else by_reference


_with_autograd = operators.with_autograd(reference.forward, reference.backward)


def by_reference(x: Tensor, p1: Tensor, p2: Tensor, beta: Tensor, dim: int) -> Tensor:
    return _with_autograd(x, p1, p2, beta, dim)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "shape", [(2, 5, 7, 9), (3, 17, 5, 5), (1, 1, 4, 4), (2, 3, 1, 65), (2, 33, 1), (2, 4, 3, 5, 7)], ids=str
)
def test_values_and_gradients(name, dtype, shape):
    for x, dim in layouts(shape, dtype).values():
        for beta_shape in ("C", "NC", "N1"):
            assert_exact(implementation(name), x, parameters_for(x, dim, beta_shape), dim)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("plane", [1, 7, 25, 63, 65, 16384, 40001])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_odd_planes(name, plane, dtype):
    """The plane is not a multiple of a vector, nor of a chunk."""
    for x in (torch.randn(2, 3, plane).to(dtype), torch.randn(2, plane, 3).to(dtype).transpose(1, 2)):
        assert_exact(implementation(name), x, parameters_for(x, 1, "NC"), 1)


@NEEDS_COMPILED
@pytest.mark.parametrize("channels", [1, 3, 16, 100, 3000])
def test_rows_of_many_channels(channels):
    x = torch.randn(2, 50, channels).transpose(1, 2)
    assert_exact(F.acon_c, x, parameters_for(x, 1, "NC"), 1)


@NEEDS_COMPILED
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(70, 300, 7, 7), (300, 40, 2, 3), (90, 30, 14, 14), (300, 200), (40, 3, 20, 7, 7)])
def test_many_samples_of_small_planes(shape, dtype):
    """Samples share tasks, and steps of the loop share planes."""
    x = torch.randn(shape).to(dtype)
    for beta_shape in ("C", "NC", "N1"):
        assert_exact(F.acon_c, x, parameters_for(x, 1, beta_shape), 1)
    if len(shape) == 5:
        assert_exact(F.acon_c, x, parameters_for(x, 2, "NC"), 2)


@NEEDS_COMPILED
@pytest.mark.parametrize("shape", [(30, 20, 7, 7), (30, 20), (3, 5, 40, 40)])
def test_slopes_of_each_sample(shape):
    x = torch.randn(shape)
    for shapes in (("NC", "C", "C"), ("N1", "NC", "C"), ("C", "N1", "NC")):
        p1, p2, beta = (parameters_for(x, 1, each)[2] for each in shapes)
        assert_exact(F.acon_c, x, [p1, p2, beta], 1)


@NEEDS_COMPILED
@torch.no_grad()  # otherwise PyTorch's operators compute them, for a second derivative
@pytest.mark.parametrize("shape", [(30, 20, 7, 7), (30, 20), (2, 5, 90, 200)])
@pytest.mark.parametrize("beta_shape", ["C", "NC"])
def test_only_the_wanted_gradients(shape, beta_shape):
    x, grad = torch.randn(shape), torch.randn(shape)
    inputs = (grad, x, *parameters_for(x, 1, beta_shape), 1)
    backward = torch.ops.acon_mm.acon_c_backward.default
    every = backward(*inputs, [True] * 4)
    for mask in itertools.product([False, True], repeat=4):
        # An undefined tensor of C++ arrives as None.
        for wanted, got, want in strict_zip(mask, backward(*inputs, list(mask)), every):
            assert torch.equal(got, want) if wanted else got is None


@NEEDS_COMPILED
def test_nan_and_infinity_stay_in_their_plane():
    """One step of the loop has elements of two planes."""
    x = torch.randn(2, 6, 7, 7)
    x[:, 2], x[:, 4] = float("nan"), float("inf")
    y, grad_x, *grads = run(F.acon_c, x, [torch.rand(6) + 0.5 for _ in range(3)], 1, torch.ones(x.shape))
    for t in (y, grad_x):
        assert t[:, [0, 1, 3, 5]].isfinite().all() and t[:, 2].isnan().all()
    assert all(g[[0, 1, 3, 5]].isfinite().all() and g[2].isnan() for g in grads)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 3, 0, 4), (0, 3)])
def test_empty(name, shape):
    x = torch.randn(shape)
    y, grad_x, *grads = run(implementation(name), x, parameters_for(x, 1, "NC"), 1, torch.randn(shape))
    assert y.shape == grad_x.shape == shape
    assert all((g == 0).all() for g in grads)


@NEEDS_COMPILED
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_large_results_are_those_of_their_parts(dtype):
    """From 16 MiB on, results are written without the cache, on boundaries where odd planes do not begin."""
    elements = (16 << 20) // torch.finfo(dtype).bits * 8
    for shape in ((1, 7, elements // 7 + 5), (elements // 7 // 49 + 1, 7, 49), (elements // 7 // 5 + 1, 7, 5)):
        x = torch.randn(shape).to(dtype)
        parameters = parameters_for(x, 1, "C")
        whole = F.acon_c(x, *parameters, 1)
        parts = [F.acon_c(x[:, c : c + 1], *(p[c : c + 1] for p in parameters), 1) for c in range(7)]
        assert torch.equal(whole, torch.cat(parts, 1))


@NEEDS_COMPILED
def test_strides_of_dense_inputs_stay():
    for label, (x, dim) in layouts((2, 5, 7, 9), torch.float32).items():
        y, grad_x, *_ = run(F.acon_c, x, parameters_for(x, dim, "C"), dim, torch.ones(x.shape))
        expected = x.stride() if label != "strided" else torch.empty(x.shape).stride()
        assert y.stride() == grad_x.stride() == expected, label


# Extreme values


@NEEDS_COMPILED
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("beta", [1e-3, 1.0, 10.0, -2.0])
def test_huge_tiny_infinite_and_nan_are_those_of_the_reference(dtype, beta):
    sizes = [0.0, 1e-40, 1e-30, 1e-8, 1.0, 17.0, 88.0, 104.0, 1e3, 1e10, 1e19, 1e30, 3e38, float("inf")]
    x = torch.tensor([*sizes, *(-s for s in sizes), float("nan")], dtype=dtype)
    for p1, p2 in ((1.5, -0.5), (1.0, 0.0), (0.0, 1.0), (0.3, 0.3)):
        parameters = [torch.tensor([v], dtype=torch.float32) for v in (p1, p2, beta)]
        for value in x:  # one by one, because a NaN hides the other sums
            results = [
                run(function, value.view(1, 1), parameters, 1, torch.ones(1, 1, dtype=dtype))
                for function in (F.acon_c, by_reference)
            ]
            for ours, theirs in strict_zip(*results):
                torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=1e-6, equal_nan=True)


# The operator


@NEEDS_COMPILED
@pytest.mark.parametrize("beta_shape", ["C", "NC", "N1"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
def test_gradcheck_of_the_operator(beta_shape, layout):
    x, dim = layouts((2, 3, 2, 3), torch.float64)[layout]
    inputs = [t.double().requires_grad_() for t in (x.detach(), *parameters_for(x, dim, beta_shape))]
    assert torch.autograd.gradcheck(F.acon_c, (*inputs, dim))
    assert torch.autograd.gradgradcheck(F.acon_c, (*inputs, dim))
    assert_create_graph_changes_nothing(F.acon_c(*inputs, dim), inputs)


@NEEDS_COMPILED
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # its own, in PyTorch 2.14
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
def test_opcheck(layout):
    x, dim = layouts((2, 3, 4, 5), torch.float32)[layout]
    parameters = parameters_for(x, dim, "NC")
    inputs = [t.detach().requires_grad_() for t in (x, *parameters)]
    torch.library.opcheck(torch.ops.acon_mm.acon_c.default, (*inputs, dim))
    grad = torch.randn_like(x)
    for mask in ([True] * 4, [True, False, False, False], [False, True, False, True]):
        torch.library.opcheck(torch.ops.acon_mm.acon_c_backward.default, (grad, x, *parameters, dim, mask))
    torch.library.opcheck(torch.ops.acon_mm.channel_mean.default, (x, dim))


# Meta-ACON's mean


@NEEDS_COMPILED
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "last dimension", "strided", "flipped strides"])
def test_input_and_mean(dtype, layout):
    x, dim = layouts((2, 5, 7, 9), dtype)[layout]
    leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
    same, mean = F.input_and_mean(leaf, dim)
    space = [d for d in range(1, 4) if d != dim % 4]
    torch.testing.assert_close(mean, x.float().mean(space))
    weight, of_mean = torch.randn(x.shape).to(dtype), torch.randn(2, 5)
    (grad,) = torch.autograd.grad([same * weight, mean], leaf, [torch.ones_like(x), of_mean])
    spread = reference.align(of_mean, x, dim) / 63
    rounding = torch.finfo(dtype).eps
    torch.testing.assert_close(grad, (weight.float() + spread).to(dtype), rtol=2 * rounding, atol=rounding)


@NEEDS_COMPILED
def test_input_and_mean_twice_differentiable():
    def function(x):
        same, mean = F.input_and_mean(x, 1)
        return (same.sin() * mean.exp()[:, :, None, None]).sum()

    x = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, x) and torch.autograd.gradgradcheck(function, x)
    assert_create_graph_changes_nothing(function(x), [x])


@NEEDS_COMPILED
def test_mean_is_not_added_to_a_gradient_that_others_see():
    """It is added in place only to a tensor that nobody else has."""
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    same, mean = F.input_and_mean(x, 1)
    grad = torch.randn_like(x)
    before = grad.clone()
    torch.autograd.backward([same, mean], [grad, torch.ones(2, 3)])
    assert torch.equal(grad, before)
    torch.testing.assert_close(x.grad, before + 1 / 16)
    seen = []
    x.grad = None
    same, mean = F.input_and_mean(x, 1)
    same.register_hook(seen.append)
    torch.autograd.backward([same * 2, mean], [grad, torch.ones(2, 3)])
    assert torch.equal(seen[0], grad * 2)


@NEEDS_COMPILED
def test_mean_is_added_in_place_to_a_gradient_of_its_own():
    """The backward of Meta-ACON makes one tensor of the size of x, not two."""
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    same, mean = F.input_and_mean(x, 1)
    y = F.acon_c(same, torch.ones(3), torch.zeros(3), mean, 1)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        y.backward(torch.ones_like(y))
    called = {event.name for event in profile.events()}
    assert "acon_mm::acon_c_backward" in called and "aten::add" not in called


# Threads and instruction sets


@NEEDS_COMPILED
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(3, 40, 61, 67), (90, 300, 7, 7), (300, 1100, 1, 1)], ids=str)
def test_same_bits_for_any_number_of_threads(shape, layout, dtype):
    x, dim = layouts(shape, dtype)[layout]
    grad = torch.randn(x.shape).to(dtype)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            for beta_shape in ("C", "NC"):
                torch.manual_seed(1)
                results.append(run(F.acon_c, x, parameters_for(x, dim, beta_shape), dim, grad))
            mean = F.input_and_mean(x, dim)[1]
            tensors, generator = meta_inputs((3, 2048, 2, 2), 300, "batch", torch.float32)
            y = fused(tensors, generator)
            grads = torch.autograd.grad(y.square().sum(), [*tensors, *generator.learned()])
            results[-1] += [mean, y.detach(), *buffers(generator), *grads]
    finally:
        torch.set_num_threads(before)
    for start in (0, 1):
        for other in results[start + 2 :: 2]:
            assert all(torch.equal(a, b) for a, b in strict_zip(results[start], other))


def test_instruction_set():
    """That of PyTorch's own kernels, or the one that the environment asks for."""
    asked = os.environ.get("ATEN_CPU_CAPABILITY", cpu_capability()).lower()
    assert compiled.instruction_set() == (asked if asked in ("avx512", "avx2") else "baseline")


@NEEDS_COMPILED
@pytest.mark.slow
@pytest.mark.parametrize("capability", ["default", "avx2"])
def test_each_instruction_set(capability):
    """The tests of values and gradients again, in a process that uses other instructions."""
    if compiled.instruction_set() == "baseline" and capability != "default":
        pytest.skip("this processor has no AVX2")
    chosen = "test_instruction_set or large_results or (values_and_gradients and not reference)"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", HERE / "test_cpu.py", HERE / "test_fused.py", "-k", chosen],
        cwd=HERE.parents[1],
        env=os.environ | {"ATEN_CPU_CAPABILITY": capability},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "skipped" not in done.stdout, done.stdout + done.stderr
