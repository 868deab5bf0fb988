r"""ACON-C's kernels for GPUs, in Triton.

``reference.py`` explains the formula, ``csrc/gpu.cpp`` and ``gpu_launches.py`` launch them.

A tensor is walked in the order of its memory, as ``(S, B, C, I)``: S samples of B blocks, each with C channels of I
elements.

- ``forward_planes``, ``backward_planes``: a plane is the I elements of one sample, block and channel.
- ``forward_flat``, ``backward_flat``: consecutive elements of a block, for small planes. These need not begin at an
  address that is a multiple of 16 bytes, where wide loads begin.
- ``forward_rows``, ``backward_rows``: channels are last in memory (I = 1); a row is the C elements of one position.

``backward_*`` keep their sums in registers over many tiles. They write, per sample, part and channel, the sums that
the gradients of p1, p2 and beta are made of: ``(S, parts, SUMS, C)``. ``finish`` adds these. Where no parameter has a
sample dimension, the samples count as blocks and S is 1.

Arguments that end in ``_pointer`` are tensors, those in capitals are constants, ``*_n`` and ``*_c`` are the strides of
a parameter by sample and channel. All other arguments are int32; offsets of elements are int64.
"""

# mypy: disallow-untyped-defs=False
# Triton gives the arguments of its kernels their types.
import torch
import triton
import triton.language as tl

_LARGEST = tl.constexpr(torch.finfo(torch.float32).max)
_LOG2E = tl.constexpr(1.4426950408889634)
# From this |z| on, s (1-s) counts as 0. So nothing infinite is multiplied by it.
_MAX_Z = tl.constexpr(87.0)


@triton.jit
def _clamp(value, limit):
    """``value`` within ``limit``; NaN stays."""
    return tl.where(value > limit, limit, tl.where(value < -limit, -limit, value))


@triton.jit
def _sigmoid(z):
    return 1.0 / (1.0 + tl.exp2(z * -_LOG2E))


@triton.jit
def _y(x, p1, p2, beta):
    p_diff = p1 - p2
    return x * (p2 + p_diff * _sigmoid(x * (beta * p_diff)))


@triton.jit
def _gradients(grad_y, x, p1, p2, beta):
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
def _parameter(pointer, sample, channel, sample_stride, channel_stride, mask):
    value = tl.load(pointer + sample * sample_stride + channel * channel_stride, mask=mask, other=0.0)
    return value.to(tl.float32)


@triton.jit
def _small_quotient(value, divisor):
    """``value // divisor`` of integers below 2^22, which is faster than a division of integers."""
    return ((value.to(tl.float32) + 0.5) / divisor.to(tl.float32)).to(tl.int32)


@triton.jit
def forward_planes(
    x_pointer, y_pointer, p1_pointer, p2_pointer, beta_pointer,
    channels, blocks, inner, tiles, p1_n, p1_c, p2_n, p2_c, beta_n, beta_c,
    INNER: tl.constexpr,
):  # fmt: skip
    """Programs: planes x tiles. A tile has INNER elements of one plane."""
    program = tl.program_id(0)
    plane = program // tiles
    block = plane // channels
    sample, channel = block // blocks, plane - block * channels
    p1 = _parameter(p1_pointer, sample, channel, p1_n, p1_c, True)
    p2 = _parameter(p2_pointer, sample, channel, p2_n, p2_c, True)
    beta = _parameter(beta_pointer, sample, channel, beta_n, beta_c, True)
    position = (program - plane * tiles) * INNER + tl.arange(0, INNER)
    mask = position < inner
    first = plane.to(tl.int64) * inner
    x = tl.load(x_pointer + first + position, mask=mask, other=0.0).to(tl.float32)
    tl.store(y_pointer + first + position, _y(x, p1, p2, beta).to(y_pointer.dtype.element_ty), mask=mask)


@triton.jit
def _flat_tile(tile, inner, TILE: tl.constexpr):
    """Of a tile of consecutive elements of a block: their places, its first channel, and the channel of each."""
    place = tile * TILE + tl.arange(0, TILE)
    first = tile * TILE // inner
    return place, first, first + _small_quotient(place - first * inner, inner)


@triton.jit
def forward_flat(
    x_pointer, y_pointer, p1_pointer, p2_pointer, beta_pointer,
    channels, blocks, inner, size, tiles, parts, steps, p1_n, p1_c, p2_n, p2_c, beta_n, beta_c,
    TILE: tl.constexpr,
):  # fmt: skip
    """Programs: samples x parts x tiles. A block has `size` = C I elements; a program has the same tile of `steps`."""
    program = tl.program_id(0)
    sample_part = program // tiles
    sample = sample_part // parts
    place, _, channel = _flat_tile(program - sample_part * tiles, inner, TILE)
    mask = place < size
    p1 = _parameter(p1_pointer, sample, channel, p1_n, p1_c, mask)
    p2 = _parameter(p2_pointer, sample, channel, p2_n, p2_c, mask)
    beta = _parameter(beta_pointer, sample, channel, beta_n, beta_c, mask)
    first = (sample_part - sample * parts) * steps
    end = tl.minimum(first + steps, blocks)
    block = sample.to(tl.int64) * blocks
    x = tl.load(x_pointer + (block + first) * size + place, mask=place < tl.where(first < end, size, 0), other=0.0)
    for step in range(first, end):
        next_mask = place < tl.where(step + 1 < end, size, 0)
        next_x = tl.load(x_pointer + (block + step + 1) * size + place, mask=next_mask, other=0.0)
        y = _y(x.to(tl.float32), p1, p2, beta)
        tl.store(y_pointer + (block + step) * size + place, y.to(y_pointer.dtype.element_ty), mask=mask)
        x = next_x


@triton.jit
def forward_rows(
    x_pointer, y_pointer, p1_pointer, p2_pointer, beta_pointer,
    channels, blocks, channel_tiles, row_tiles, p1_n, p1_c, p2_n, p2_c, beta_n, beta_c,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Programs: samples x row tiles x channel tiles. A tile has CHANNELS elements of ROWS rows of one sample."""
    program = tl.program_id(0)
    tile = program // channel_tiles
    sample = tile // row_tiles
    row = (tile - sample * row_tiles) * ROWS + tl.arange(0, ROWS)[:, None]
    channel = (program - tile * channel_tiles) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    exists = channel < channels
    mask = exists & (row < blocks)
    p1 = _parameter(p1_pointer, sample, channel, p1_n, p1_c, exists)
    p2 = _parameter(p2_pointer, sample, channel, p2_n, p2_c, exists)
    beta = _parameter(beta_pointer, sample, channel, beta_n, beta_c, exists)
    offset = (sample.to(tl.int64) * blocks + row) * channels + channel
    x = tl.load(x_pointer + offset, mask=mask, other=0.0).to(tl.float32)
    tl.store(y_pointer + offset, _y(x, p1, p2, beta).to(y_pointer.dtype.element_ty), mask=mask)


@triton.jit
def _backward_parameters(
    p1_pointer, p2_pointer, beta_pointer, mean_grad_pointer, sample, channel, channels,
    p1_n, p1_c, p2_n, p2_c, beta_n, beta_c, mask, SUMS: tl.constexpr, MEAN_GRAD: tl.constexpr,
):  # fmt: skip
    """p1, p2, beta and the gradient of the mean; 0 for those that are not used."""
    p1, p2, beta, mean_grad = 0.0, 0.0, 0.0, 0.0
    if SUMS != 1:
        p1 = _parameter(p1_pointer, sample, channel, p1_n, p1_c, mask)
        p2 = _parameter(p2_pointer, sample, channel, p2_n, p2_c, mask)
        beta = _parameter(beta_pointer, sample, channel, beta_n, beta_c, mask)
    if MEAN_GRAD:
        mean_grad = _parameter(mean_grad_pointer, sample, channel, channels, 1, mask)
    return p1, p2, beta, mean_grad


@triton.jit
def _backward_step(
    x, grad_y, sum_1, sum_2, sum_3, grad_x_place, mean_grad, p1, p2, beta, mask,
    SUMS: tl.constexpr, GRAD_X: tl.constexpr, MEAN_GRAD: tl.constexpr,
):  # fmt: skip
    """A tile: stores its grad_x, and returns the sums with those of the tile."""
    x = x.to(tl.float32)
    if SUMS == 1:
        return sum_1 + x, sum_2, sum_3
    grad_x, of_1, of_2, of_3 = _gradients(grad_y.to(tl.float32), x, p1, p2, beta)
    if GRAD_X:
        if MEAN_GRAD:
            grad_x += mean_grad
        tl.store(grad_x_place, grad_x.to(grad_x_place.dtype.element_ty), mask=mask)
    if SUMS == 3:
        return sum_1 + of_1, sum_2 + of_2, sum_3 + of_3
    return sum_1, sum_2, sum_3


@triton.jit
def backward_planes(
    x_pointer, grad_y_pointer, grad_x_pointer, sums_pointer, mean_grad_pointer, p1_pointer, p2_pointer, beta_pointer,
    channels, blocks, inner, tiles, groups, parts, steps, p1_n, p1_c, p2_n, p2_c, beta_n, beta_c,
    PLANES: tl.constexpr, INNER: tl.constexpr, SUMS: tl.constexpr, GRAD_X: tl.constexpr, MEAN_GRAD: tl.constexpr,
):  # fmt: skip
    """Programs: samples x parts x groups of PLANES channels. A program goes through `steps` tiles of PLANES x INNER.

    SUMS: 3, or 1 where only x itself is summed (the mean of Meta-ACON), or 0. GRAD_X: write grad_x. MEAN_GRAD: add a
    value of each sample and channel to it.
    """
    program = tl.program_id(0)
    sample_part = program // groups
    channel = (program - sample_part * groups) * PLANES + tl.arange(0, PLANES)[:, None]
    sample = sample_part // parts
    exists = channel < channels
    p1, p2, beta, mean_grad = _backward_parameters(
        p1_pointer, p2_pointer, beta_pointer, mean_grad_pointer, sample, channel, channels,
        p1_n, p1_c, p2_n, p2_c, beta_n, beta_c, exists, SUMS, MEAN_GRAD,
    )  # fmt: skip
    sum_1 = tl.zeros([PLANES, INNER], tl.float32)
    sum_2 = tl.zeros([PLANES, INNER], tl.float32)
    sum_3 = tl.zeros([PLANES, INNER], tl.float32)
    first = (sample_part - sample * parts) * steps
    end = tl.minimum(first + steps, blocks * tiles)
    # The next tile is on its way while one is computed.
    block = first // tiles
    position = (first - block * tiles) * INNER + tl.arange(0, INNER)[None, :]
    offset = ((sample.to(tl.int64) * blocks + block) * channels + channel) * inner + position
    mask = exists & (position < tl.where(first < end, inner, 0))
    x = tl.load(x_pointer + offset, mask=mask, other=0.0)
    grad_y = x if SUMS == 1 else tl.load(grad_y_pointer + offset, mask=mask, other=0.0)
    for step in range(first, end):
        block = (step + 1) // tiles
        position = (step + 1 - block * tiles) * INNER + tl.arange(0, INNER)[None, :]
        next_offset = ((sample.to(tl.int64) * blocks + block) * channels + channel) * inner + position
        next_mask = exists & (position < tl.where(step + 1 < end, inner, 0))
        next_x = tl.load(x_pointer + next_offset, mask=next_mask, other=0.0)
        next_grad_y = next_x if SUMS == 1 else tl.load(grad_y_pointer + next_offset, mask=next_mask, other=0.0)
        place = x_pointer if not GRAD_X else grad_x_pointer + offset
        sum_1, sum_2, sum_3 = _backward_step(
            x, grad_y, sum_1, sum_2, sum_3, place, mean_grad, p1, p2, beta, mask, SUMS, GRAD_X, MEAN_GRAD
        )
        x, grad_y, offset, mask = next_x, next_grad_y, next_offset, next_mask
    if SUMS != 0:
        place = sums_pointer + sample_part.to(tl.int64) * SUMS * channels + channel
        tl.store(place, tl.sum(sum_1, 1, keep_dims=True), mask=exists)
        if SUMS == 3:
            tl.store(place + channels, tl.sum(sum_2, 1, keep_dims=True), mask=exists)
            tl.store(place + 2 * channels, tl.sum(sum_3, 1, keep_dims=True), mask=exists)


@triton.jit
def backward_flat(
    x_pointer, grad_y_pointer, grad_x_pointer, sums_pointer, mean_grad_pointer, p1_pointer, p2_pointer, beta_pointer,
    channels, blocks, inner, size, tiles, parts, steps, slots, p1_n, p1_c, p2_n, p2_c, beta_n, beta_c,
    TILE: tl.constexpr, SEGMENTS: tl.constexpr, LENGTH: tl.constexpr,
    SUMS: tl.constexpr, GRAD_X: tl.constexpr, MEAN_GRAD: tl.constexpr,
):  # fmt: skip
    """As `backward_planes`, in the tiles of `forward_flat`. Programs: samples x parts x tiles.

    A tile may begin and end inside of a plane. So a channel has `slots` sums in each part, one for each tile that it
    may lie in: ``(samples, parts * slots, SUMS, channels)``. A tile has at most SEGMENTS channels with LENGTH elements
    each.
    """
    program = tl.program_id(0)
    sample_part = program // tiles
    sample = sample_part // parts
    tile = program - sample_part * tiles
    place, first_channel, channel = _flat_tile(tile, inner, TILE)
    mask = place < size
    p1, p2, beta, mean_grad = _backward_parameters(
        p1_pointer, p2_pointer, beta_pointer, mean_grad_pointer, sample, channel, channels,
        p1_n, p1_c, p2_n, p2_c, beta_n, beta_c, mask, SUMS, MEAN_GRAD,
    )  # fmt: skip
    sum_1 = tl.zeros([TILE], tl.float32)
    sum_2 = tl.zeros([TILE], tl.float32)
    sum_3 = tl.zeros([TILE], tl.float32)
    first = (sample_part - sample * parts) * steps
    end = tl.minimum(first + steps, blocks)
    block = sample.to(tl.int64) * blocks
    offset = (block + first) * size + place
    first_mask = place < tl.where(first < end, size, 0)
    x = tl.load(x_pointer + offset, mask=first_mask, other=0.0)
    grad_y = x if SUMS == 1 else tl.load(grad_y_pointer + offset, mask=first_mask, other=0.0)
    for step in range(first, end):
        next_offset = (block + step + 1) * size + place
        next_mask = place < tl.where(step + 1 < end, size, 0)
        next_x = tl.load(x_pointer + next_offset, mask=next_mask, other=0.0)
        next_grad_y = next_x if SUMS == 1 else tl.load(grad_y_pointer + next_offset, mask=next_mask, other=0.0)
        to = x_pointer if not GRAD_X else grad_x_pointer + (block + step) * size + place
        sum_1, sum_2, sum_3 = _backward_step(
            x, grad_y, sum_1, sum_2, sum_3, to, mean_grad, p1, p2, beta, mask, SUMS, GRAD_X, MEAN_GRAD
        )
        x, grad_y = next_x, next_grad_y
    if SUMS != 0:
        channel = first_channel + tl.arange(0, SEGMENTS)
        begin = channel * inner - tile * TILE  # relative to the tile
        exists = (channel < channels) & (begin < TILE)
        stop = tl.minimum(begin + inner, TILE)
        index = tl.maximum(begin, 0)[:, None] + tl.arange(0, LENGTH)[None, :]
        inside = exists[:, None] & (index < stop[:, None])
        index = tl.where(inside, index, 0).reshape(SEGMENTS * LENGTH)
        slot = tile - channel * inner // TILE
        to = sums_pointer + ((sample_part.to(tl.int64) * slots + slot) * SUMS) * channels + channel
        of_1 = tl.where(inside, tl.gather(sum_1, index, 0).reshape(SEGMENTS, LENGTH), 0.0)
        tl.store(to, tl.sum(of_1, 1), mask=exists)
        if SUMS == 3:
            of_2 = tl.where(inside, tl.gather(sum_2, index, 0).reshape(SEGMENTS, LENGTH), 0.0)
            of_3 = tl.where(inside, tl.gather(sum_3, index, 0).reshape(SEGMENTS, LENGTH), 0.0)
            tl.store(to + channels, tl.sum(of_2, 1), mask=exists)
            tl.store(to + 2 * channels, tl.sum(of_3, 1), mask=exists)
        # The slots that the channel does not need.
        ends = exists & (begin + inner <= TILE)
        zero = tl.zeros([SEGMENTS], tl.float32)
        for later in range(1, slots):
            to += SUMS * channels
            unused = ends & (slot + later < slots)
            tl.store(to, zero, mask=unused)
            if SUMS == 3:
                tl.store(to + channels, zero, mask=unused)
                tl.store(to + 2 * channels, zero, mask=unused)


@triton.jit
def backward_rows(
    x_pointer, grad_y_pointer, grad_x_pointer, sums_pointer, mean_grad_pointer, p1_pointer, p2_pointer, beta_pointer,
    channels, blocks, groups, parts, steps, p1_n, p1_c, p2_n, p2_c, beta_n, beta_c,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr, SUMS: tl.constexpr, GRAD_X: tl.constexpr, MEAN_GRAD: tl.constexpr,
):  # fmt: skip
    """As `backward_planes`. Programs: samples x parts x groups of CHANNELS; `steps` tiles of ROWS x CHANNELS each."""
    program = tl.program_id(0)
    sample_part = program // groups
    channel = (program - sample_part * groups) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    sample = sample_part // parts
    exists = channel < channels
    p1, p2, beta, mean_grad = _backward_parameters(
        p1_pointer, p2_pointer, beta_pointer, mean_grad_pointer, sample, channel, channels,
        p1_n, p1_c, p2_n, p2_c, beta_n, beta_c, exists, SUMS, MEAN_GRAD,
    )  # fmt: skip
    sum_1 = tl.zeros([ROWS, CHANNELS], tl.float32)
    sum_2 = tl.zeros([ROWS, CHANNELS], tl.float32)
    sum_3 = tl.zeros([ROWS, CHANNELS], tl.float32)
    first_row = (sample_part - sample * parts) * steps * ROWS
    end = tl.minimum(first_row + steps * ROWS, blocks)
    row = first_row + tl.arange(0, ROWS)[:, None]
    offset = (sample.to(tl.int64) * blocks + row) * channels + channel
    mask = exists & (row < end)
    x = tl.load(x_pointer + offset, mask=mask, other=0.0)
    grad_y = x if SUMS == 1 else tl.load(grad_y_pointer + offset, mask=mask, other=0.0)
    for _ in range(first_row, end, ROWS):
        row += ROWS
        next_offset = offset + ROWS * channels
        next_mask = exists & (row < end)
        next_x = tl.load(x_pointer + next_offset, mask=next_mask, other=0.0)
        next_grad_y = next_x if SUMS == 1 else tl.load(grad_y_pointer + next_offset, mask=next_mask, other=0.0)
        place = x_pointer if not GRAD_X else grad_x_pointer + offset
        sum_1, sum_2, sum_3 = _backward_step(
            x, grad_y, sum_1, sum_2, sum_3, place, mean_grad, p1, p2, beta, mask, SUMS, GRAD_X, MEAN_GRAD
        )
        x, grad_y, offset, mask = next_x, next_grad_y, next_offset, next_mask
    if SUMS != 0:
        place = sums_pointer + sample_part.to(tl.int64) * SUMS * channels + channel
        tl.store(place, tl.sum(sum_1, 0, keep_dims=True), mask=exists)
        if SUMS == 3:
            tl.store(place + channels, tl.sum(sum_2, 0, keep_dims=True), mask=exists)
            tl.store(place + 2 * channels, tl.sum(sum_3, 0, keep_dims=True), mask=exists)


# The shapes of a parameter, and of its gradient. NONE: nobody needs the gradient.
NONE, PER_CHANNEL, PER_SAMPLE_AND_CHANNEL, PER_SAMPLE = (tl.constexpr(kind) for kind in range(4))


@triton.jit
def _p_diff(p1_pointer, p2_pointer, sample, channel, p1_n, p1_c, p2_n, p2_c, mask):
    p1 = _parameter(p1_pointer, sample, channel, p1_n, p1_c, mask)
    return p1 - _parameter(p2_pointer, sample, channel, p2_n, p2_c, mask)


@triton.jit
def _summands(sums_pointer, row, channel, channels, p_diff, mask):
    """The shares of a part in the gradients of p1, p2 and beta."""
    place = sums_pointer + row.to(tl.int64) * 3 * channels + channel
    of_p1 = tl.load(place, mask=mask, other=0.0)
    of_p2 = tl.load(place + channels, mask=mask, other=0.0) - of_p1
    # A sum may have overflowed to infinity, and a p_diff of 0 must not make NaN of that.
    return of_p1, of_p2, _clamp(tl.load(place + 2 * channels, mask=mask, other=0.0), _LARGEST) * p_diff * p_diff


@triton.jit
def _store(pointer, offset, value, mask):
    tl.store(pointer + offset, value.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def finish(
    sums_pointer, p1_pointer, p2_pointer, grad_p1_pointer, grad_p2_pointer, grad_beta_pointer,
    samples, channels, groups, parts, p1_n, p1_c, p2_n, p2_c,
    KIND_P1: tl.constexpr, KIND_P2: tl.constexpr, KIND_BETA: tl.constexpr,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The gradients of p1, p2 and beta from the sums ``(samples, parts, 3, channels)``.

    The first `groups` programs have CHANNELS channels each, and make the gradients per channel. `samples` more follow
    where a gradient has a sample dimension.
    """
    program = tl.program_id(0)
    if program < groups:
        channel = program * CHANNELS + tl.arange(0, CHANNELS)[None, :]
        exists = channel < channels
        total_1 = tl.zeros([ROWS, CHANNELS], tl.float32)
        total_2 = tl.zeros([ROWS, CHANNELS], tl.float32)
        total_3 = tl.zeros([ROWS, CHANNELS], tl.float32)
        for first in range(0, samples * parts, ROWS):
            row = first + tl.arange(0, ROWS)[:, None]
            mask = exists & (row < samples * parts)
            p_diff = _p_diff(p1_pointer, p2_pointer, row // parts, channel, p1_n, p1_c, p2_n, p2_c, mask)
            of_p1, of_p2, of_beta = _summands(sums_pointer, row, channel, channels, p_diff, mask)
            total_1 += of_p1
            total_2 += of_p2
            total_3 += of_beta
        if KIND_P1 == PER_CHANNEL:
            _store(grad_p1_pointer, channel, tl.sum(total_1, 0, keep_dims=True), exists)
        if KIND_P2 == PER_CHANNEL:
            _store(grad_p2_pointer, channel, tl.sum(total_2, 0, keep_dims=True), exists)
        if KIND_BETA == PER_CHANNEL:
            _store(grad_beta_pointer, channel, _clamp(tl.sum(total_3, 0, keep_dims=True), _LARGEST), exists)
    else:
        sample = program - groups
        whole_1 = tl.zeros([1, CHANNELS], tl.float32)
        whole_2 = tl.zeros([1, CHANNELS], tl.float32)
        whole_3 = tl.zeros([1, CHANNELS], tl.float32)
        for group in range(groups):
            channel = group * CHANNELS + tl.arange(0, CHANNELS)[None, :]
            exists = channel < channels
            p_diff = _p_diff(p1_pointer, p2_pointer, sample, channel, p1_n, p1_c, p2_n, p2_c, exists)
            total_1 = tl.zeros([1, CHANNELS], tl.float32)
            total_2 = tl.zeros([1, CHANNELS], tl.float32)
            total_3 = tl.zeros([1, CHANNELS], tl.float32)
            for part in range(parts):
                row = sample * parts + part
                of_p1, of_p2, of_beta = _summands(sums_pointer, row, channel, channels, p_diff, exists)
                total_1 += of_p1
                total_2 += of_p2
                total_3 += of_beta
            place = sample * channels + channel
            if KIND_P1 == PER_SAMPLE_AND_CHANNEL:
                _store(grad_p1_pointer, place, total_1, exists)
            if KIND_P2 == PER_SAMPLE_AND_CHANNEL:
                _store(grad_p2_pointer, place, total_2, exists)
            if KIND_BETA == PER_SAMPLE_AND_CHANNEL:
                _store(grad_beta_pointer, place, _clamp(total_3, _LARGEST), exists)
            whole_1 += total_1
            whole_2 += total_2
            whole_3 += total_3
        if KIND_P1 == PER_SAMPLE:
            _store(grad_p1_pointer, sample, tl.sum(whole_1), True)
        if KIND_P2 == PER_SAMPLE:
            _store(grad_p2_pointer, sample, tl.sum(whole_2), True)
        if KIND_BETA == PER_SAMPLE:
            _store(grad_beta_pointer, sample, _clamp(tl.sum(whole_3), _LARGEST), True)
