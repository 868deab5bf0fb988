"""ACON-C: a pass over x, which writes y."""

# mypy: disallow-untyped-defs=False
# Triton gives the arguments of its kernels their types.
import triton
import triton.language as tl

from .common import activated, flat_tile, norm_before, normed, parameter


@triton.jit
def forward_planes(
    x_pointer, y_pointer, norm_pointer, p1_pointer, p2_pointer, beta_pointer,
    channels, blocks, inner, tiles, p1_n, p1_c, p2_n, p2_c, beta_n, beta_c,
    INNER: tl.constexpr, NORMED: tl.constexpr,
):  # fmt: skip
    """Programs: planes x tiles. A tile has INNER elements of one plane."""
    program = tl.program_id(0)
    plane = program // tiles
    block = plane // channels
    sample, channel = block // blocks, plane - block * channels
    p1 = parameter(p1_pointer, sample, channel, p1_n, p1_c, True)
    p2 = parameter(p2_pointer, sample, channel, p2_n, p2_c, True)
    beta = parameter(beta_pointer, sample, channel, beta_n, beta_c, True)
    scale, shift = norm_before(norm_pointer, channel, channels, True, NORMED)
    position = (program - plane * tiles) * INNER + tl.arange(0, INNER)
    mask = position < inner
    first = plane.to(tl.int64) * inner
    x = normed(tl.load(x_pointer + first + position, mask=mask, other=0.0), scale, shift, NORMED)
    tl.store(y_pointer + first + position, activated(x, p1, p2, beta).to(y_pointer.dtype.element_ty), mask=mask)


@triton.jit
def forward_flat(
    x_pointer, y_pointer, norm_pointer, p1_pointer, p2_pointer, beta_pointer,
    channels, blocks, inner, size, tiles, parts, steps, p1_n, p1_c, p2_n, p2_c, beta_n, beta_c,
    TILE: tl.constexpr, NORMED: tl.constexpr,
):  # fmt: skip
    """Programs: samples x parts x tiles. A block has `size` = C I elements; a program has the same tile of `steps`."""
    program = tl.program_id(0)
    sample_part = program // tiles
    sample = sample_part // parts
    place, _, channel = flat_tile(program - sample_part * tiles, inner, TILE)
    mask = place < size
    p1 = parameter(p1_pointer, sample, channel, p1_n, p1_c, mask)
    p2 = parameter(p2_pointer, sample, channel, p2_n, p2_c, mask)
    beta = parameter(beta_pointer, sample, channel, beta_n, beta_c, mask)
    scale, shift = norm_before(norm_pointer, channel, channels, mask, NORMED)
    first = (sample_part - sample * parts) * steps
    end = tl.minimum(first + steps, blocks)
    block = sample.to(tl.int64) * blocks
    x = tl.load(x_pointer + (block + first) * size + place, mask=place < tl.where(first < end, size, 0), other=0.0)
    for step in range(first, end):
        next_mask = place < tl.where(step + 1 < end, size, 0)
        next_x = tl.load(x_pointer + (block + step + 1) * size + place, mask=next_mask, other=0.0)
        y = activated(normed(x, scale, shift, NORMED), p1, p2, beta)
        tl.store(y_pointer + (block + step) * size + place, y.to(y_pointer.dtype.element_ty), mask=mask)
        x = next_x


@triton.jit
def forward_rows(
    x_pointer, y_pointer, norm_pointer, p1_pointer, p2_pointer, beta_pointer,
    channels, blocks, channel_tiles, row_tiles, p1_n, p1_c, p2_n, p2_c, beta_n, beta_c,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr, NORMED: tl.constexpr,
):  # fmt: skip
    """Programs: samples x row tiles x channel tiles. A tile has CHANNELS elements of ROWS rows of one sample."""
    program = tl.program_id(0)
    tile = program // channel_tiles
    sample = tile // row_tiles
    row = (tile - sample * row_tiles) * ROWS + tl.arange(0, ROWS)[:, None]
    channel = (program - tile * channel_tiles) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    exists = channel < channels
    mask = exists & (row < blocks)
    p1 = parameter(p1_pointer, sample, channel, p1_n, p1_c, exists)
    p2 = parameter(p2_pointer, sample, channel, p2_n, p2_c, exists)
    beta = parameter(beta_pointer, sample, channel, beta_n, beta_c, exists)
    scale, shift = norm_before(norm_pointer, channel, channels, exists, NORMED)
    offset = (sample.to(tl.int64) * blocks + row) * channels + channel
    x = normed(tl.load(x_pointer + offset, mask=mask, other=0.0), scale, shift, NORMED)
    tl.store(y_pointer + offset, activated(x, p1, p2, beta).to(y_pointer.dtype.element_ty), mask=mask)
