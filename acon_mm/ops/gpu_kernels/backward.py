"""The gradients of ACON-C: a pass over x and grad_y, which writes grad_x and the sums of each program."""

# mypy: disallow-untyped-defs=False
# Triton gives the arguments of its kernels their types.
import triton
import triton.language as tl

from .common import CORRECTED, flat_tile, gradients, norm_before, norm_value, normed, parameter


@triton.jit
def _backward_parameters(
    p1_pointer, p2_pointer, beta_pointer, mean_grad_pointer, sample, channel, channels,
    p1_n, p1_c, p2_n, p2_c, beta_n, beta_c, mask, SUMS: tl.constexpr, MEAN_GRAD: tl.constexpr,
):  # fmt: skip
    """p1, p2, beta and the gradient of the mean; 0 for those that are not used."""
    p1, p2, beta, mean_grad = 0.0, 0.0, 0.0, 0.0
    if SUMS != 1:
        p1 = parameter(p1_pointer, sample, channel, p1_n, p1_c, mask)
        p2 = parameter(p2_pointer, sample, channel, p2_n, p2_c, mask)
        beta = parameter(beta_pointer, sample, channel, beta_n, beta_c, mask)
    if MEAN_GRAD:
        mean_grad = parameter(mean_grad_pointer, sample, channel, channels, 1, mask)
    return p1, p2, beta, mean_grad


@triton.jit
def _backward_norm(norm_pointer, correction_pointer, channel, channels, mask, NORMED: tl.constexpr):
    """Scale, shift and mean of the norm before, and its correction; 0 for those that are not used."""
    scale, shift = norm_before(norm_pointer, channel, channels, mask, NORMED)
    mean, slope, constant = 0.0, 0.0, 0.0
    if NORMED:
        mean = norm_value(norm_pointer, 2, channel, channels, mask)
    if NORMED == CORRECTED:
        slope = norm_value(correction_pointer, 0, channel, channels, mask)
        constant = norm_value(correction_pointer, 1, channel, channels, mask)
    return scale, shift, mean, slope, constant


@triton.jit
def _backward_step(
    x, grad_y, sum_1, sum_2, sum_3, sum_4, sum_5, sum_6, grad_x_place, mean_grad, p1, p2, beta,
    scale, shift, mean, slope, constant, mask,
    SUMS: tl.constexpr, GRAD_X: tl.constexpr, MEAN_GRAD: tl.constexpr, NORMED: tl.constexpr,
):  # fmt: skip
    """A tile: stores its grad_x, and returns the sums with those of the tile."""
    x = x.to(tl.float32)
    if SUMS == 1:
        return sum_1 + x, sum_2, sum_3, sum_4, sum_5, sum_6
    grad_z, of_1, of_2, of_3 = gradients(grad_y.to(tl.float32), normed(x, scale, shift, NORMED), p1, p2, beta)
    if GRAD_X:
        grad_x = grad_z
        if MEAN_GRAD:
            grad_x += mean_grad
        if NORMED:
            grad_x *= scale
        if NORMED == CORRECTED:
            grad_x += slope * x + constant
        tl.store(grad_x_place, grad_x.to(grad_x_place.dtype.element_ty), mask=mask)
    if SUMS >= 3:
        sum_1, sum_2, sum_3 = sum_1 + of_1, sum_2 + of_2, sum_3 + of_3
    if SUMS >= 5:
        sum_4, sum_5 = sum_4 + grad_z, sum_5 + grad_z * (x - mean)
    if SUMS == 6:
        sum_6 += tl.where(mask, x - mean, 0.0)
    return sum_1, sum_2, sum_3, sum_4, sum_5, sum_6


@triton.jit
def _store_sums(
    place, channels, sum_1, sum_2, sum_3, sum_4, sum_5, sum_6, mask, AXIS: tl.constexpr, SUMS: tl.constexpr
):  # fmt: skip
    """The sums of a program, each added along an axis."""
    tl.store(place, tl.sum(sum_1, AXIS, keep_dims=True), mask=mask)
    if SUMS >= 3:
        tl.store(place + channels, tl.sum(sum_2, AXIS, keep_dims=True), mask=mask)
        tl.store(place + 2 * channels, tl.sum(sum_3, AXIS, keep_dims=True), mask=mask)
    if SUMS >= 5:
        tl.store(place + 3 * channels, tl.sum(sum_4, AXIS, keep_dims=True), mask=mask)
        tl.store(place + 4 * channels, tl.sum(sum_5, AXIS, keep_dims=True), mask=mask)
    if SUMS == 6:
        tl.store(place + 5 * channels, tl.sum(sum_6, AXIS, keep_dims=True), mask=mask)


@triton.jit
def backward_planes(
    x_pointer, grad_y_pointer, grad_x_pointer, sums_pointer, mean_grad_pointer, norm_pointer, correction_pointer,
    p1_pointer, p2_pointer, beta_pointer,
    channels, blocks, inner, tiles, groups, parts, steps, p1_n, p1_c, p2_n, p2_c, beta_n, beta_c,
    PLANES: tl.constexpr, INNER: tl.constexpr,
    SUMS: tl.constexpr, GRAD_X: tl.constexpr, MEAN_GRAD: tl.constexpr, NORMED: tl.constexpr,
):  # fmt: skip
    """Programs: samples x parts x groups of PLANES channels. A program goes through `steps` tiles of PLANES x INNER.

    SUMS: 3; with a norm before 5, or 6 for Meta-ACON; 1 where only x itself is summed (the mean of Meta-ACON); or 0.
    GRAD_X: write grad_x. MEAN_GRAD: add a value of each sample and channel to the gradient of the ACON's input. The
    correction of a norm, ``(2, C)``: its first row times x, and its second one, are added to grad_x.
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
    scale, shift, mean, slope, constant = _backward_norm(
        norm_pointer, correction_pointer, channel, channels, exists, NORMED
    )
    sum_1 = tl.zeros([PLANES, INNER], tl.float32)
    sum_2 = tl.zeros([PLANES, INNER], tl.float32)
    sum_3 = tl.zeros([PLANES, INNER], tl.float32)
    sum_4 = tl.zeros([PLANES, INNER], tl.float32)
    sum_5 = tl.zeros([PLANES, INNER], tl.float32)
    sum_6 = tl.zeros([PLANES, INNER], tl.float32)
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
        sum_1, sum_2, sum_3, sum_4, sum_5, sum_6 = _backward_step(
            x, grad_y, sum_1, sum_2, sum_3, sum_4, sum_5, sum_6, place, mean_grad, p1, p2, beta,
            scale, shift, mean, slope, constant, mask, SUMS, GRAD_X, MEAN_GRAD, NORMED,
        )  # fmt: skip
        x, grad_y, offset, mask = next_x, next_grad_y, next_offset, next_mask
    if SUMS != 0:
        place = sums_pointer + sample_part.to(tl.int64) * SUMS * channels + channel
        _store_sums(place, channels, sum_1, sum_2, sum_3, sum_4, sum_5, sum_6, exists, 1, SUMS)


@triton.jit
def _by_segment(sums, index, inside, SEGMENTS: tl.constexpr, LENGTH: tl.constexpr):
    """The sums of a tile, added by channel."""
    return tl.sum(tl.where(inside, tl.gather(sums, index, 0).reshape(SEGMENTS, LENGTH), 0.0), 1)


@triton.jit
def backward_flat(
    x_pointer, grad_y_pointer, grad_x_pointer, sums_pointer, mean_grad_pointer, norm_pointer, correction_pointer,
    p1_pointer, p2_pointer, beta_pointer,
    channels, blocks, inner, size, tiles, parts, steps, slots, p1_n, p1_c, p2_n, p2_c, beta_n, beta_c,
    TILE: tl.constexpr, SEGMENTS: tl.constexpr, LENGTH: tl.constexpr,
    SUMS: tl.constexpr, GRAD_X: tl.constexpr, MEAN_GRAD: tl.constexpr, NORMED: tl.constexpr,
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
    place, first_channel, channel = flat_tile(tile, inner, TILE)
    mask = place < size
    p1, p2, beta, mean_grad = _backward_parameters(
        p1_pointer, p2_pointer, beta_pointer, mean_grad_pointer, sample, channel, channels,
        p1_n, p1_c, p2_n, p2_c, beta_n, beta_c, mask, SUMS, MEAN_GRAD,
    )  # fmt: skip
    scale, shift, mean, slope, constant = _backward_norm(
        norm_pointer, correction_pointer, channel, channels, mask, NORMED
    )
    sum_1 = tl.zeros([TILE], tl.float32)
    sum_2 = tl.zeros([TILE], tl.float32)
    sum_3 = tl.zeros([TILE], tl.float32)
    sum_4 = tl.zeros([TILE], tl.float32)
    sum_5 = tl.zeros([TILE], tl.float32)
    sum_6 = tl.zeros([TILE], tl.float32)
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
        sum_1, sum_2, sum_3, sum_4, sum_5, sum_6 = _backward_step(
            x, grad_y, sum_1, sum_2, sum_3, sum_4, sum_5, sum_6, to, mean_grad, p1, p2, beta,
            scale, shift, mean, slope, constant, mask, SUMS, GRAD_X, MEAN_GRAD, NORMED,
        )  # fmt: skip
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
        tl.store(to, _by_segment(sum_1, index, inside, SEGMENTS, LENGTH), mask=exists)
        if SUMS >= 3:
            tl.store(to + channels, _by_segment(sum_2, index, inside, SEGMENTS, LENGTH), mask=exists)
            tl.store(to + 2 * channels, _by_segment(sum_3, index, inside, SEGMENTS, LENGTH), mask=exists)
        if SUMS >= 5:
            tl.store(to + 3 * channels, _by_segment(sum_4, index, inside, SEGMENTS, LENGTH), mask=exists)
            tl.store(to + 4 * channels, _by_segment(sum_5, index, inside, SEGMENTS, LENGTH), mask=exists)
        if SUMS == 6:
            tl.store(to + 5 * channels, _by_segment(sum_6, index, inside, SEGMENTS, LENGTH), mask=exists)
        # The slots that the channel does not need.
        ends = exists & (begin + inner <= TILE)
        zero = tl.zeros([SEGMENTS], tl.float32)
        for later in range(1, slots):
            to += SUMS * channels
            unused = ends & (slot + later < slots)
            for each in tl.static_range(SUMS):
                tl.store(to + each * channels, zero, mask=unused)


@triton.jit
def backward_rows(
    x_pointer, grad_y_pointer, grad_x_pointer, sums_pointer, mean_grad_pointer, norm_pointer, correction_pointer,
    p1_pointer, p2_pointer, beta_pointer,
    channels, blocks, groups, parts, steps, p1_n, p1_c, p2_n, p2_c, beta_n, beta_c,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr,
    SUMS: tl.constexpr, GRAD_X: tl.constexpr, MEAN_GRAD: tl.constexpr, NORMED: tl.constexpr,
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
    scale, shift, mean, slope, constant = _backward_norm(
        norm_pointer, correction_pointer, channel, channels, exists, NORMED
    )
    sum_1 = tl.zeros([ROWS, CHANNELS], tl.float32)
    sum_2 = tl.zeros([ROWS, CHANNELS], tl.float32)
    sum_3 = tl.zeros([ROWS, CHANNELS], tl.float32)
    sum_4 = tl.zeros([ROWS, CHANNELS], tl.float32)
    sum_5 = tl.zeros([ROWS, CHANNELS], tl.float32)
    sum_6 = tl.zeros([ROWS, CHANNELS], tl.float32)
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
        sum_1, sum_2, sum_3, sum_4, sum_5, sum_6 = _backward_step(
            x, grad_y, sum_1, sum_2, sum_3, sum_4, sum_5, sum_6, place, mean_grad, p1, p2, beta,
            scale, shift, mean, slope, constant, mask, SUMS, GRAD_X, MEAN_GRAD, NORMED,
        )  # fmt: skip
        x, grad_y, offset, mask = next_x, next_grad_y, next_offset, next_mask
    if SUMS != 0:
        place = sums_pointer + sample_part.to(tl.int64) * SUMS * channels + channel
        _store_sums(place, channels, sum_1, sum_2, sum_3, sum_4, sum_5, sum_6, exists, 0, SUMS)
