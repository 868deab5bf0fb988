"""What the kernels share: the formula and its derivatives, parameters, and the norm before."""

# mypy: disallow-untyped-defs=False
# Triton gives the arguments of its kernels their types.
import torch
import triton
import triton.language as tl

LARGEST = tl.constexpr(torch.finfo(torch.float32).max)
_LOG2E = tl.constexpr(1.4426950408889634)
# From this |z| on, s (1-s) counts as 0. So nothing infinite is multiplied by it.
_MAX_Z = tl.constexpr(87.0)

# NORMED in backward, where the norm's mean and variance are those of x, so their gradients count too.
CORRECTED = tl.constexpr(2)


@triton.jit
def clamp(value, limit):
    """``value`` within ``limit``; NaN stays."""
    return tl.where(value > limit, limit, tl.where(value < -limit, -limit, value))


@triton.jit
def sigmoid(z):
    return 1.0 / (1.0 + tl.exp2(z * -_LOG2E))


@triton.jit
def activated(x, p1, p2, beta):
    p_diff = p1 - p2
    return x * (p2 + p_diff * sigmoid(x * (beta * p_diff)))


@triton.jit
def gradients(grad_y, x, p1, p2, beta):
    """grad_x, and the summands: of grad_p1, of grad_p1 + grad_p2, and of grad_beta / p_diff^2."""
    p_diff = p1 - p2
    z = x * (beta * p_diff)
    e = tl.exp2(z * -_LOG2E)
    s = 1.0 / (1.0 + e)
    saturated = tl.abs(z) >= _MAX_Z
    slope = tl.where(saturated, 0.0, s * (e * s))  # s (1-s), without the cancellation
    h = tl.where(saturated, s, s + z * slope)
    weighted = grad_y * x
    return grad_y * (p2 + p_diff * h), weighted * h, weighted, weighted * slope * x


@triton.jit
def parameter(pointer, sample, channel, sample_stride, channel_stride, mask):
    value = tl.load(pointer + sample * sample_stride + channel * channel_stride, mask=mask, other=0.0)
    return value.to(tl.float32)


@triton.jit
def norm_value(norm_pointer, ROW: tl.constexpr, channel, channels, mask):
    """A row of the values of a norm, or of its correction (`backward_planes`)."""
    return tl.load(norm_pointer + ROW * channels + channel, mask=mask, other=0.0)


@triton.jit
def norm_before(norm_pointer, channel, channels, mask, NORMED: tl.constexpr):
    """Scale and shift of the norm before, where there is one."""
    scale, shift = 1.0, 0.0
    if NORMED:
        scale = norm_value(norm_pointer, 0, channel, channels, mask)
        shift = norm_value(norm_pointer, 1, channel, channels, mask)
    return scale, shift


@triton.jit
def normed(x, scale, shift, NORMED: tl.constexpr):
    x = x.to(tl.float32)
    if NORMED:
        x = x * scale + shift
    return x


@triton.jit
def _small_quotient(value, divisor):
    """``value // divisor`` of integers below 2^22, which is faster than a division of integers."""
    return ((value.to(tl.float32) + 0.5) / divisor.to(tl.float32)).to(tl.int32)


@triton.jit
def flat_tile(tile, inner, TILE: tl.constexpr):
    """Of a tile of consecutive elements of a block: their places, its first channel, and the channel of each."""
    place = tile * TILE + tl.arange(0, TILE)
    first = tile * TILE // inner
    return place, first, first + _small_quotient(place - first * inner, inner)
