"""The GPU kernels, run by a CUDA device where there is one, otherwise by Triton's interpreter on the CPU."""

import os
import subprocess
import sys

import pytest
import torch

from acon_mm.ops import gpu_kernels
from helpers.exactness import assert_exact, layouts, parameters_for, run

# conftest.py turns the interpreter on where there is no device.
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Kernels(torch.autograd.Function):
    """ACON-C by the kernels, for tensors that come from the CPU."""

    @staticmethod
    def forward(ctx, *inputs):
        *tensors, dim = inputs
        x, p1, p2, beta = (t.to(DEVICE) for t in tensors)
        ctx.save_for_backward(x, p1, p2, beta)
        ctx.dim = dim % x.dim()
        return gpu_kernels.launch_forward(x, p1, p2, beta, ctx.dim).cpu()

    @staticmethod
    def backward(ctx, grad_y):
        grads = gpu_kernels.launch_backward(grad_y.to(DEVICE), *ctx.saved_tensors, ctx.dim)
        return *(g.cpu() for g in grads), None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "shape",
    [
        (2, 5, 7, 9),
        (3, 17, 5, 5),
        (2, 3, 1, 65),
        (1, 1, 4, 4),
        pytest.param((2, 3, 2100), marks=pytest.mark.slow),
        (2, 4, 3, 2, 3),
    ],
    ids=str,
)
def test_values_and_gradients(dtype, shape):
    # The interpreter truncates to bfloat16 instead of rounding.
    roundings = 1 if dtype == torch.bfloat16 and DEVICE == "cpu" else 0.5
    for x, dim in layouts(shape, dtype).values():
        for beta_shape in ("C", "NC", "N1"):
            assert_exact(Kernels.apply, x, parameters_for(x, dim, beta_shape), dim, roundings)


@pytest.mark.parametrize("plane", [1, 7, 25, 63, 65])
def test_odd_planes_and_rows(plane):
    for x in (torch.randn(2, 3, plane), torch.randn(2, plane, 140).transpose(1, 2)):
        assert_exact(Kernels.apply, x, parameters_for(x, 1, "NC"), 1)


def test_empty():
    x = torch.randn(0, 3, 4, 4)
    y, grad_x, *grads = run(Kernels.apply, x, parameters_for(x, 1, "C"), 1, x)
    assert y.shape == grad_x.shape == x.shape and all((g == 0).all() for g in grads)


def test_infinite_and_nan():
    x = torch.tensor([[float("inf")], [-float("inf")], [float("nan")], [1.0]])
    y, grad_x, *_ = run(Kernels.apply, x, [torch.tensor([v]) for v in (1.5, -0.5, 1.0)], 1, torch.ones(4, 1))
    assert y[:2].flatten().tolist() == [float("inf")] * 2 and y[2].isnan()
    assert grad_x[:2].flatten().tolist() == [1.5, -0.5] and grad_x[2].isnan()


# Triton compiles without a device too, down to machine code. This shows what the interpreter does not: wrong types, and
# whether memory is read in words of 16 bytes.
COMPILE = """
import sys
from itertools import product
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from acon_mm.ops import gpu_kernels

tiles = {
    gpu_kernels._planes: dict(PLANES=1, INNER=2048),
    gpu_kernels._rows: dict(ROWS=16, CHANNELS=128),
}
for (kernel, tile), backward, element in product(tiles.items(), (False, True), ("fp32", "fp16", "bf16")):
    constants = dict(tile, BACKWARD=backward)
    signature, aligned = {}, {}
    for index, name in enumerate(kernel.arg_names):
        pointer = name.endswith("_pointer")
        wide = name in ("x_pointer", "grad_pointer", "out_pointer")
        signature[name] = f"*{element if wide else 'fp32'}" if pointer else "i32"
        if name in constants:
            signature[name] = "constexpr"
        elif pointer or name in ("inner", "channels"):
            aligned[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constexprs=constants, attrs=aligned)
    assembly = compile(source, target=GPUTarget("cuda", int(sys.argv[1]), 32)).asm
    assert assembly["cubin"]
    loads, stores = (assembly["ptx"].count(f"{word}.global.v4.b32") for word in ("ld", "st"))
    elements = 16 if element == "fp32" else 8  # a thread has 16, in words of 4 or 8 each
    expected = (elements // 4 * (1 + backward), elements // 4)
    assert (loads, stores) == expected, (kernel, backward, element, loads, stores)
"""


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["80", "90"])
def test_kernels_compile_for_a_gpu(capability, tmp_path):
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMPILE, capability], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
