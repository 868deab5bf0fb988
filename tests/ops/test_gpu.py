"""The Triton kernels, run by a CUDA device where there is one, otherwise by Triton's interpreter on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from acon_mm.ops import gpu_launches, operators
from helpers.exactness import assert_exact, layouts, parameters_for, run
from helpers.kernels import NEEDS_COMPILED

# conftest.py turns the interpreter on where there is no device.
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HERE = Path(__file__).parent
pytestmark = [pytest.mark.gpu] if DEVICE == "cuda" else []

acon_c = operators.with_autograd(gpu_launches.forward, gpu_launches.backward)


def launched(*inputs):
    """ACON-C by the kernels, launched from Python, for tensors that come from the CPU."""
    *tensors, dim = inputs
    return acon_c(*(t.to(DEVICE) for t in tensors), dim % tensors[0].dim()).cpu()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "shape",
    [
        (2, 5, 7, 9),
        pytest.param((3, 17, 5, 5), marks=pytest.mark.slow),
        (2, 3, 1, 65),
        (1, 1, 4, 4),
        pytest.param((2, 4, 3, 2, 3), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_values_and_gradients(dtype, shape):
    # The interpreter truncates to bfloat16 instead of rounding.
    roundings = 1 if dtype == torch.bfloat16 and DEVICE == "cpu" else 0.5
    for x, dim in layouts(shape, dtype).values():
        for beta_shape in ("C", "NC", "N1"):
            assert_exact(launched, x, parameters_for(x, dim, beta_shape), dim, roundings)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2, 3, 1056), (3, 2, 1027)], ids=str)
def test_large_planes(shape):
    for x, dim in layouts(shape, torch.float16).values():
        assert_exact(launched, x, parameters_for(x, dim, "NC"), dim)


@pytest.mark.parametrize("plane", [1, 7, 25, 63, 65])
def test_odd_planes_and_rows(plane):
    for x in (torch.randn(2, 3, plane), torch.randn(2, plane, 140).transpose(1, 2)):
        assert_exact(launched, x, parameters_for(x, 1, "NC"), 1)


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 3, 0, 4), (0, 3)], ids=str)
def test_empty(shape):
    x = torch.randn(shape)
    y, grad_x, *grads = run(launched, x, parameters_for(x, 1, "C"), 1, x)
    assert y.shape == grad_x.shape == x.shape and all((g == 0).all() for g in grads)


@pytest.mark.filterwarnings("ignore:invalid value")  # NumPy's, in the interpreter
def test_infinite_and_nan():
    x = torch.tensor([[float("inf")], [-float("inf")], [float("nan")], [1.0]])
    y, grad_x, *_ = run(launched, x, [torch.tensor([v]) for v in (1.5, -0.5, 1.0)], 1, torch.ones(4, 1))
    assert y[:2].flatten().tolist() == [float("inf")] * 2 and y[2].isnan()
    assert grad_x[:2].flatten().tolist() == [1.5, -0.5] and grad_x[2].isnan()


# Triton compiles without a device too, down to machine code. This shows what the interpreter does not: wrong types, and
# whether memory is read in words of 16 bytes.
COMPILE = """
import json, math, sys
from triton.backends.compiler import GPUTarget
from acon_mm.ops import gpu, gpu_kernels

extents = {"planes": "inner", "flat": "size", "rows": "channels"}
read_wide = set()
for told in json.load(sys.stdin):
    assembly = gpu.compile_ahead(**told, target=GPUTarget("cuda", int(sys.argv[1]), 32)).asm
    assert assembly["cubin"]
    entry = assembly["ptx"].split(".entry")[1].split(")")[0]
    assert 0 <= entry.count(".param") - len(told["types"]) <= 4, told  # scratch memory
    name = told["name"]
    if name.startswith(("forward", "backward")):
        names = [n for n in getattr(gpu_kernels, name).arg_names if not n.isupper()]
        aligned = told["divisors"][names.index(extents[name.split("_")[1]])] == 16 and told["divisors"][:3] == [16] * 3
        if aligned and math.prod(told["constants"][:2 - ("flat" in name)]) >= 128 * 4:
            assert "ld.global.v4.b32" in assembly["ptx"] or "ld.global.v2.b32" in assembly["ptx"], told
            read_wide.add(name)
assert len(read_wide) == 6, read_wide
"""


@pytest.mark.slow
@NEEDS_COMPILED
def test_launches_from_cpp(tmp_path):
    """C++ launches the kernels right, and what it asks for compiles to machine code for real GPUs."""
    environment = os.environ | {"PYTHONPATH": str(HERE.parent), "STUB_DEVICE_KERNELS": str(tmp_path / "kernels.json")}
    tests = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(HERE / "test_launches_from_cpp.py")]
    done = subprocess.run(tests, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and " passed" in done.stdout and "skipped" not in done.stdout, done.stdout + done.stderr
    kernels = (tmp_path / "kernels.json").read_text()
    assert len({told["name"] for told in json.loads(kernels)}) == 11  # all there are
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-W", "ignore", "-c", COMPILE]
    compiles = [
        subprocess.Popen(
            [*command, capability], env=environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for capability in ("80", "90")
    ]
    for compiling in compiles:
        _, log = compiling.communicate(kernels)
        assert compiling.returncode == 0, log
