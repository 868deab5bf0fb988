"""The Triton kernels and their launches. ``gpu.py`` imports this file when the first tensor comes."""

# mypy: disallow-untyped-defs=False
# Triton gives the arguments of its kernels their types.
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .reference import finite

# Elements of a tile: few enough for the registers, enough to hide the latency of memory.
_TILE = 2048
# Beyond this |z|, z s (1-s) is 0 in float32.
_MAX_Z = tl.constexpr(1e3)
_LARGEST = tl.constexpr(torch.finfo(torch.float32).max)


@triton.jit
def _sigmoid(z):
    return 1.0 / (1.0 + tl.exp(-z))


@triton.jit
def _y(x, p1, p2, beta):
    p_diff = p1 - p2
    return x * (p2 + p_diff * _sigmoid(x * (beta * p_diff)))


@triton.jit
def _gradients(grad_y, x, p1, p2, beta):
    """grad_x, and the summands of the gradients of p1, p2 and beta (formula: ``reference.py``)."""
    p_diff = p1 - p2
    z = beta * p_diff * x
    # tl.where keeps NaN; tl.clamp may not.
    z = tl.where(z > _MAX_Z, _MAX_Z, tl.where(z < -_MAX_Z, -_MAX_Z, z))
    s = _sigmoid(z)
    slope = s * _sigmoid(-z)
    h = s + z * slope
    weighted = grad_y * x
    weighted_h = weighted * h
    of_beta = weighted * slope * x
    of_beta = tl.where(of_beta > _LARGEST, _LARGEST, tl.where(of_beta < -_LARGEST, -_LARGEST, of_beta))
    return grad_y * (p_diff * h + p2), weighted_h, weighted - weighted_h, of_beta * (p_diff * p_diff)


@triton.jit
def _parameter(pointer, sample, channel, sample_stride, channel_stride, mask):
    return tl.load(pointer + sample * sample_stride + channel * channel_stride, mask=mask, other=0.0)


@triton.jit
def _planes(
    x_pointer, grad_pointer, out_pointer, sums_pointer, p1_pointer, p2_pointer, beta_pointer,
    planes, inner, channels, blocks, tiles,
    p1_n, p1_c, p2_n, p2_c, beta_n, beta_c,
    PLANES: tl.constexpr, INNER: tl.constexpr, BACKWARD: tl.constexpr,
):  # fmt: skip
    """A tile of PLANES x INNER elements; a plane is one sample, block and channel."""
    program = tl.program_id(0).to(tl.int64)
    plane = program // tiles * PLANES + tl.arange(0, PLANES)[:, None]
    position = program % tiles * INNER + tl.arange(0, INNER)[None, :]
    exists = plane < planes
    mask = exists & (position < inner)
    channel, sample = plane % channels, plane // channels // blocks
    p1 = _parameter(p1_pointer, sample, channel, p1_n, p1_c, exists)
    p2 = _parameter(p2_pointer, sample, channel, p2_n, p2_c, exists)
    beta = _parameter(beta_pointer, sample, channel, beta_n, beta_c, exists)
    offset = plane * inner + position
    x = tl.load(x_pointer + offset, mask=mask, other=0.0).to(tl.float32)
    if BACKWARD:
        grad_y = tl.load(grad_pointer + offset, mask=mask, other=0.0).to(tl.float32)
        grad_x, sum_p1, sum_p2, sum_beta = _gradients(grad_y, x, p1, p2, beta)
        tl.store(out_pointer + offset, grad_x.to(out_pointer.dtype.element_ty), mask=mask)
        place = sums_pointer + (plane * tiles + program % tiles) * 3
        tl.store(place, tl.sum(sum_p1, 1, keep_dims=True), mask=exists)
        tl.store(place + 1, tl.sum(sum_p2, 1, keep_dims=True), mask=exists)
        tl.store(place + 2, tl.sum(sum_beta, 1, keep_dims=True), mask=exists)
    else:
        tl.store(out_pointer + offset, _y(x, p1, p2, beta).to(out_pointer.dtype.element_ty), mask=mask)


@triton.jit
def _rows(
    x_pointer, grad_pointer, out_pointer, sums_pointer, p1_pointer, p2_pointer, beta_pointer,
    rows, channels, row_tiles, channel_tiles,
    p1_n, p1_c, p2_n, p2_c, beta_n, beta_c,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr, BACKWARD: tl.constexpr,
):  # fmt: skip
    """A tile of ROWS x CHANNELS elements of one sample; a row has the channels of one position."""
    program = tl.program_id(0).to(tl.int64)
    sample = program // channel_tiles // row_tiles
    row = program // channel_tiles % row_tiles * ROWS + tl.arange(0, ROWS)[:, None]
    channel = program % channel_tiles * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    exists = channel < channels
    mask = exists & (row < rows)
    p1 = _parameter(p1_pointer, sample, channel, p1_n, p1_c, exists)
    p2 = _parameter(p2_pointer, sample, channel, p2_n, p2_c, exists)
    beta = _parameter(beta_pointer, sample, channel, beta_n, beta_c, exists)
    offset = (sample * rows + row) * channels + channel
    x = tl.load(x_pointer + offset, mask=mask, other=0.0).to(tl.float32)
    if BACKWARD:
        grad_y = tl.load(grad_pointer + offset, mask=mask, other=0.0).to(tl.float32)
        grad_x, sum_p1, sum_p2, sum_beta = _gradients(grad_y, x, p1, p2, beta)
        tl.store(out_pointer + offset, grad_x.to(out_pointer.dtype.element_ty), mask=mask)
        place = sums_pointer + (program // channel_tiles * channels + channel) * 3
        tl.store(place, tl.sum(sum_p1, 0, keep_dims=True), mask=exists)
        tl.store(place + 1, tl.sum(sum_p2, 0, keep_dims=True), mask=exists)
        tl.store(place + 2, tl.sum(sum_beta, 0, keep_dims=True), mask=exists)
    else:
        tl.store(out_pointer + offset, _y(x, p1, p2, beta).to(out_pointer.dtype.element_ty), mask=mask)


class _Walk(NamedTuple):
    """The order of a tensor in memory: N samples of ``blocks`` times C channels times ``inner`` elements."""

    x: Tensor  # the tensor, or a contiguous copy where the kernels cannot walk it
    samples: int
    blocks: int
    channels: int
    inner: int

    @classmethod
    def of(cls, x: Tensor, channel_dim: int) -> "_Walk":
        last = not x.is_contiguous() and x.movedim(channel_dim, -1).is_contiguous()
        x = x if last else x.contiguous()
        before, after = x.shape[1:channel_dim], x.shape[channel_dim + 1 :]
        blocks, inner = torch.Size(before).numel(), torch.Size(after).numel()
        if last:
            blocks, inner = blocks * inner, 1
        return cls(x, x.shape[0], blocks, x.shape[channel_dim], inner)

    def launch(self, grad_y: Tensor | None, parameters: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """The output of the kernel, and the sums ``(N, C, 3)`` where there is a ``grad_y``."""
        x, backward = self.x, grad_y is not None
        grad_y = x if grad_y is None else grad_y
        out = torch.empty_like(x)
        prepared = [p.detach().float().contiguous() for p in parameters]
        strides = [s for p in prepared for s in (p.shape[-1] * (p.dim() - 1), int(p.shape[-1] > 1))]
        if grad_y.stride() != x.stride():
            grad_y = torch.empty_like(x).copy_(grad_y)
        if self.inner == 1:
            columns = min(triton.next_power_of_2(self.channels), 128)
            rows = max(1, min(_TILE // columns, triton.next_power_of_2(self.blocks)))
            row_tiles, channel_tiles = triton.cdiv(self.blocks, rows), triton.cdiv(self.channels, columns)
            kernel, programs = _rows, self.samples * row_tiles * channel_tiles
            shape = [self.samples, row_tiles, self.channels, 3]
            sizes = [self.blocks, self.channels, row_tiles, channel_tiles]
            tile = dict(ROWS=rows, CHANNELS=columns)
        else:
            length = min(triton.next_power_of_2(self.inner), _TILE)
            planes_per_tile = max(1, 512 // length)
            planes, tiles = self.samples * self.blocks * self.channels, triton.cdiv(self.inner, length)
            kernel, programs = _planes, triton.cdiv(planes, planes_per_tile) * tiles
            shape = [self.samples, self.blocks, self.channels, tiles, 3]
            sizes = [planes, self.inner, self.channels, self.blocks, tiles]
            tile = dict(PLANES=planes_per_tile, INNER=length)
        sums = torch.empty(shape if backward else 0, dtype=torch.float32, device=x.device)
        if x.numel():
            kernel[(programs,)](x, grad_y, out, sums, *prepared, *sizes, *strides, BACKWARD=backward, **tile)
        return out, sums.sum((1, 3) if sums.dim() == 5 else 1) if backward else sums


def launch_forward(x: Tensor, p1: Tensor, p2: Tensor, beta: Tensor, channel_dim: int) -> Tensor:
    """``y`` of ACON-C, with the strides of ``x`` where these are dense."""
    walk = _Walk.of(x, channel_dim)
    y, _ = walk.launch(None, (p1, p2, beta))
    return y


def launch_backward(
    grad_y: Tensor, x: Tensor, p1: Tensor, p2: Tensor, beta: Tensor, channel_dim: int
) -> tuple[Tensor, ...]:
    """The gradients of ``x``, ``p1``, ``p2`` and ``beta``."""
    walk = _Walk.of(x, channel_dim)
    grad_x, sums = walk.launch(grad_y, (p1, p2, beta))
    totals = zip(sums.unbind(-1), (p1, p2, beta), strict=True)
    of_p1, of_p2, of_beta = (total.sum_to_size(p.shape) for total, p in totals)
    return grad_x, of_p1.to(p1.dtype), of_p2.to(p2.dtype), finite(of_beta).to(beta.dtype)
