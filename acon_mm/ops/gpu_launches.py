"""Launches of the Triton kernels from Python, where C++ does not launch them. ``csrc/gpu.cpp`` is the counterpart."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..compat import strict_zip
from . import gpu_kernels as kernels
from . import reference

_TILE = 1024
_SMALL_TILE = 512
_LARGE_PLANE = 1024
_FORWARD_PROGRAMS, _PLANE_PROGRAMS, _ROW_PROGRAMS = 32, 16, 8
_MAX_PARTS = 16
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def _on(device: torch.device) -> Any:
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _row_of_a_tile(inner: int) -> int:
    """The part of a plane in a tile: the largest power of two that wastes least."""
    lengths = [2**k for k in range(10, 5, -1)]
    return _TILE if inner >= _LARGE_PLANE else min(lengths, key=lambda length: triton.cdiv(inner, length) * length)


def _strides(*parameters: Tensor) -> list[int]:
    return [s for p in parameters for s in (p.stride(0) * (p.dim() - 1), p.stride(-1) * (p.shape[-1] > 1))]


@dataclass
class _Walk:
    """The order of a tensor in memory: samples, blocks, channels and elements (see ``gpu_kernels``)."""

    x: Tensor
    samples: int
    blocks: int
    channels: int
    inner: int

    @classmethod
    def of(cls, x: Tensor, dim: int, by_sample: bool) -> _Walk:
        last = not x.is_contiguous() and x.movedim(dim, -1).is_contiguous()
        before, after = torch.Size(x.shape[1:dim]).numel(), torch.Size(x.shape[dim + 1 :]).numel()
        blocks, inner = (before * after, 1) if last else (before, after)
        samples = x.shape[0]
        if not by_sample:
            samples, blocks = 1, samples * blocks
        return cls(x if last else x.contiguous(), samples, blocks, x.shape[dim], inner)

    @property
    def in_planes(self) -> bool:
        return self.inner >= _LARGE_PLANE and self.inner * self.x.element_size() % 16 == 0

    def parts(self, wanted_programs: int, steps: int, programs: int) -> tuple[int, int]:
        """The number of parts that the steps are shared out to, and the steps of each."""
        wanted = triton.cdiv(_multiprocessors(self.x.device) * wanted_programs, programs)
        if self.samples > 1:
            wanted = min(wanted, _MAX_PARTS)
        each = triton.cdiv(steps, min(wanted, steps))
        return triton.cdiv(steps, each), each

    def forward(self, *parameters: Tensor) -> Tensor:
        x, y = self.x, torch.empty_like(self.x)
        tensors, strides = (x, y, None, *parameters), _strides(*parameters)
        if self.inner == 1:
            columns = min(triton.next_power_of_2(self.channels), 128)
            rows = min(2 * _TILE // columns, triton.next_power_of_2(self.blocks))
            groups, tiles = triton.cdiv(self.channels, columns), triton.cdiv(self.blocks, rows)
            kernels.forward_rows[(self.samples * tiles * groups,)](
                *tensors, self.channels, self.blocks, groups, tiles, *strides, ROWS=rows, CHANNELS=columns, NORMED=0
            )
        elif self.in_planes:
            tiles = triton.cdiv(self.inner, _TILE)
            kernels.forward_planes[(self.samples * self.blocks * self.channels * tiles,)](
                *tensors, self.channels, self.blocks, self.inner, tiles, *strides, INNER=_TILE, NORMED=0
            )
        else:
            size = self.channels * self.inner
            tiles = triton.cdiv(size, _TILE)
            parts, steps = self.parts(_FORWARD_PROGRAMS, self.blocks, self.samples * tiles)
            sizes = (self.channels, self.blocks, self.inner, size, tiles, parts, steps)
            kernels.forward_flat[(self.samples * parts * tiles,)](*tensors, *sizes, *strides, TILE=_TILE, NORMED=0)
        return y

    def backward(self, grad_y: Tensor, grad_x: Tensor | None, sums: bool, *parameters: Tensor) -> Tensor | None:
        """The sums ``(samples, parts, 3, channels)``; None where they are not wanted."""
        tiles, slots, programs = 1, 1, _PLANE_PROGRAMS
        # Where each sample has sums of its own, they are of whole planes; also before Triton 3.2, which has no gather.
        in_planes = self.in_planes or (sums and (self.samples > 1 or not hasattr(tl, "gather")))
        if self.inner == 1:
            programs = _ROW_PROGRAMS
            columns = min(triton.next_power_of_2(self.channels), 64)
            rows = min(_TILE // columns, triton.next_power_of_2(self.blocks))
            groups, steps = triton.cdiv(self.channels, columns), triton.cdiv(self.blocks, rows)
            kernel, constants = kernels.backward_rows, dict(ROWS=rows, CHANNELS=columns)
        elif in_planes:
            length = _row_of_a_tile(self.inner)
            tiles, groups = triton.cdiv(self.inner, length), triton.cdiv(self.channels, _TILE // length)
            steps = self.blocks * tiles
            kernel, constants = kernels.backward_planes, dict(PLANES=_TILE // length, INNER=length)
        else:
            tile = _SMALL_TILE if sums else _TILE
            groups, steps = triton.cdiv(self.channels * self.inner, tile), self.blocks
            slots = triton.cdiv(self.inner - 1, tile) + 1
            segments = min(self.channels, (tile - 2) // self.inner + 2)
            length = triton.next_power_of_2(min(self.inner, tile))
            kernel = kernels.backward_flat
            constants = dict(TILE=tile, SEGMENTS=triton.next_power_of_2(segments), LENGTH=length)
        parts, each = self.parts(programs, steps, self.samples * groups)
        if self.inner == 1:
            sizes = [self.channels, self.blocks, groups, parts, each]
        elif in_planes:
            sizes = [self.channels, self.blocks, self.inner, tiles, groups, parts, each]
        else:
            sizes = [self.channels, self.blocks, self.inner, self.channels * self.inner, groups, parts, each, slots]
        shape = (self.samples, parts * slots, 3, self.channels)
        partial = torch.empty(shape, dtype=torch.float32, device=self.x.device) if sums else None
        constants |= dict(SUMS=3 if sums else 0, GRAD_X=grad_x is not None, MEAN_GRAD=False, NORMED=0)
        tensors = (self.x, grad_y, grad_x, partial, None, None, None, *parameters)
        kernel[(self.samples * parts * groups,)](*tensors, *sizes, *_strides(*parameters), **constants)
        return partial


def _by_sample(*parameters: Tensor) -> bool:
    return any(p.dim() == 2 for p in parameters)


def _serves(*tensors: Tensor) -> bool:
    return all(t.dtype in _DTYPES for t in tensors) and tensors[0].numel() > 0


def forward(x: Tensor, p1: Tensor, p2: Tensor, beta: Tensor, channel_dim: int) -> Tensor:
    """``y`` of ACON-C, with the strides of ``x`` where these are dense; ``channel_dim`` from 1 on."""
    if not _serves(x, p1, p2, beta):
        return reference.forward(x, p1, p2, beta, channel_dim)
    with _on(x.device):
        y = _Walk.of(x, channel_dim, _by_sample(p1, p2, beta)).forward(p1, p2, beta)
    return y if y.stride() == x.stride() else torch.empty_like(x).copy_(y)


def backward(
    grad_y: Tensor, x: Tensor, p1: Tensor, p2: Tensor, beta: Tensor, channel_dim: int, output_mask: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """The gradients of ``x``, ``p1``, ``p2`` and ``beta``; None where ``output_mask`` is false."""
    if not _serves(x, p1, p2, beta):
        return reference.backward(grad_y, x, p1, p2, beta, channel_dim, output_mask)
    walk = _Walk.of(x, channel_dim, _by_sample(p1, p2, beta))
    with _on(x.device):
        if grad_y.stride() != walk.x.stride():
            grad_y = torch.empty_like(walk.x).copy_(grad_y)
        grad_x = torch.empty_like(walk.x) if output_mask[0] else None
        sums = walk.backward(grad_y, grad_x, any(output_mask[1:]), p1, p2, beta)
        grads = [
            torch.empty_like(p, memory_format=torch.contiguous_format) if wanted else None
            for p, wanted in strict_zip((p1, p2, beta), output_mask[1:])
        ]
        if sums is not None:
            _finish(sums, p1, p2, grads)
    if grad_x is not None and grad_x.stride() != x.stride():
        grad_x = torch.empty_like(x).copy_(grad_x)
    return grad_x, *grads


def _finish(sums: Tensor, p1: Tensor, p2: Tensor, grads: list[Tensor | None]) -> None:
    samples, parts, _, channels = sums.shape
    kinds = [0 if g is None else 1 if g.dim() == 1 else 2 if g.shape[1] == channels else 3 for g in grads]
    columns, rows = 16, min(triton.next_power_of_2(samples * parts), 256)
    groups = triton.cdiv(channels, columns)
    names = dict(strict_zip(("KIND_P1", "KIND_P2", "KIND_BETA"), kinds))
    kernels.finish[(groups + (samples if max(kinds) > 1 else 0),)](
        *(sums, p1, p2, *grads, *5 * (None,)),
        *(samples, channels, groups, parts, 1, *_strides(p1, p2)),
        **dict(**names, NORMED=0, MEAN_GRAD=False, SUMS=3, ROWS=rows, CHANNELS=columns),
    )
