"""The checks of the operators' arguments: alike in C++ and in Python, in forward and in backward."""

import pytest
import torch

from acon_mm import functional as F
from acon_mm.ops import arguments
from helpers.kernels import NEEDS_COMPILED

X, ONES = torch.randn(2, 3, 4), torch.ones(3)
CASES = {
    "channels": (RuntimeError, r"shape \[4\] does not fit an input of shape \[2, 3, 4\]", X, torch.ones(4), 1),
    "samples": (RuntimeError, r"shape \[3, 3\] does not fit", X, torch.ones(3, 3), 1),
    "rank": (RuntimeError, r"shape \[2, 3, 1\] does not fit .* must be \(C,\), \(N, C\)", X, torch.ones(2, 3, 1), 1),
    "scalar": (RuntimeError, r"shape \[\] does not fit", X, torch.ones(()), 1),
    "dtype": (RuntimeError, "input of a floating dtype, got", X.long(), ONES, 1),
    "dtype of a parameter": (RuntimeError, "parameters of a floating dtype, got", X, ONES.long(), 1),
    "device": (RuntimeError, "an input on cpu and a parameter on meta", X, ONES.to("meta"), 1),
    "device of x": (RuntimeError, "an input on meta and a parameter on cpu", X.to("meta"), ONES, 1),
    "batch": (IndexError, "from 1 to 2 or negative .* got 0", X, ONES, 0),
    "negative batch": (IndexError, "from 1 to 2 or negative .* got -3", X, ONES, -3),
    "too large": (IndexError, "from 1 to 2 or negative .* got 3", X, ONES, 3),
    "vector": (IndexError, "from 1 to 0 or negative for an input of 1 dimensions", torch.ones(3), ONES, 0),
}


@pytest.mark.parametrize("name", CASES)
def test_forward(name):
    error, text, x, beta, dim = CASES[name]
    p = torch.ones(3, device=x.device)
    with pytest.raises(error, match=text):
        F.acon_c(x, p, p, beta, dim)
    with pytest.raises(error, match=text):
        arguments.check_arguments(x, p, p, beta, dim)


@pytest.mark.parametrize("name", ["channels", "dtype", "batch"])
def test_backward(name):
    error, text, x, beta, dim = CASES[name]
    with torch.no_grad(), pytest.raises(error, match=text):
        torch.ops.acon_mm.acon_c_backward(torch.ones_like(x), x, ONES, ONES, beta, dim, [True] * 4)


@pytest.mark.parametrize("grad", [torch.ones(2, 3), torch.ones(2, 3, 4).double()], ids=["shape", "dtype"])
def test_gradient(grad):
    text = "gradient of ACON's result must be as its input, .* of shape .2, 3, 4. on cpu, got"
    with torch.no_grad(), pytest.raises(RuntimeError, match=text):
        torch.ops.acon_mm.acon_c_backward(grad, X, ONES, ONES, ONES, 1, [True] * 4)
    with pytest.raises(RuntimeError, match=text):
        arguments.check_gradient(grad, X)


@NEEDS_COMPILED
def test_mean():
    for dim in (0, 4, -4):
        with pytest.raises(IndexError, match="channel_dim must be from 1 to 2"):
            F.input_and_mean(torch.ones(4, 4, 5), dim)


def test_a_tensor_with_the_negative_bit():
    x = torch.randn(2, 3, 4, dtype=torch.complex64)
    negative = torch.imag(x.conj())
    assert negative.is_neg()
    torch.testing.assert_close(F.acon_c(negative, ONES, ONES / 2, ONES), F.acon_c(-x.imag, ONES, ONES / 2, ONES))
