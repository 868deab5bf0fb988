"""What is computed per channel: the values of a norm, and gradients out of the sums of backward."""

# mypy: disallow-untyped-defs=False
# Triton gives the arguments of its kernels their types.
import triton
import triton.language as tl

from .common import CORRECTED, LARGEST, clamp, norm_value, parameter

# The shapes of a parameter, and of its gradient. NONE: nobody needs the gradient.
NONE, PER_CHANNEL, PER_SAMPLE_AND_CHANNEL, PER_SAMPLE = (tl.constexpr(kind) for kind in range(4))


@triton.jit
def norm_values(
    mean_pointer, variance_pointer, weight_pointer, bias_pointer, values_pointer,
    channels, eps,
    RSTD: tl.constexpr, WEIGHT: tl.constexpr, BIAS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Programs: groups of CHANNELS. RSTD: the second pointer has 1/std. WEIGHT, BIAS: whether the norm has them."""
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    exists = channel < channels
    mean = parameter(mean_pointer, 0, channel, 0, 1, exists)
    rstd = parameter(variance_pointer, 0, channel, 0, 1, exists)
    if not RSTD:
        rstd = 1.0 / tl.sqrt(rstd + eps)
    scale = rstd
    if WEIGHT:
        scale *= parameter(weight_pointer, 0, channel, 0, 1, exists)
    shift = -mean * scale
    if BIAS:
        shift += parameter(bias_pointer, 0, channel, 0, 1, exists)
    tl.store(values_pointer + channel, scale, mask=exists)
    tl.store(values_pointer + channels + channel, shift, mask=exists)
    tl.store(values_pointer + 2 * channels + channel, mean, mask=exists)
    tl.store(values_pointer + 3 * channels + channel, rstd, mask=exists)


@triton.jit
def difference(p1_pointer, p2_pointer, sample, channel, p1_n, p1_c, p2_n, p2_c, mask):
    p1 = parameter(p1_pointer, sample, channel, p1_n, p1_c, mask)
    return p1 - parameter(p2_pointer, sample, channel, p2_n, p2_c, mask)


@triton.jit
def summands(sums_pointer, row, channel, channels, p_diff, mask, SUMS: tl.constexpr):
    """The shares of a part in the gradients of p1, p2 and beta."""
    place = sums_pointer + row.to(tl.int64) * SUMS * channels + channel
    of_p1 = tl.load(place, mask=mask, other=0.0)
    of_p2 = tl.load(place + channels, mask=mask, other=0.0) - of_p1
    # A sum may have overflowed to infinity, and a p_diff of 0 must not make NaN of that.
    return of_p1, of_p2, clamp(tl.load(place + 2 * channels, mask=mask, other=0.0), LARGEST) * p_diff * p_diff


@triton.jit
def _store(pointer, offset, value, mask):
    tl.store(pointer + offset, value.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def finish(
    sums_pointer, p1_pointer, p2_pointer, grad_p1_pointer, grad_p2_pointer, grad_beta_pointer,
    norm_pointer, mean_grad_pointer, grad_weight_pointer, grad_bias_pointer, correction_pointer,
    samples, channels, groups, parts, area, p1_n, p1_c, p2_n, p2_c,
    KIND_P1: tl.constexpr, KIND_P2: tl.constexpr, KIND_BETA: tl.constexpr,
    NORMED: tl.constexpr, MEAN_GRAD: tl.constexpr, SUMS: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The gradients of p1, p2 and beta from the sums ``(samples, parts, SUMS, channels)``.

    With a norm before, those of its weight and bias too; and if it is CORRECTED, its correction. A channel has `area`
    elements in each sample. MEAN_GRAD: as in `backward_planes`, to be added to the gradient of each of them.

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
        total_4 = tl.zeros([ROWS, CHANNELS], tl.float32)
        total_5 = tl.zeros([ROWS, CHANNELS], tl.float32)
        for first in range(0, samples * parts, ROWS):
            row = first + tl.arange(0, ROWS)[:, None]
            mask = exists & (row < samples * parts)
            p_diff = difference(p1_pointer, p2_pointer, row // parts, channel, p1_n, p1_c, p2_n, p2_c, mask)
            of_p1, of_p2, of_beta = summands(sums_pointer, row, channel, channels, p_diff, mask, SUMS)
            total_1 += of_p1
            total_2 += of_p2
            total_3 += of_beta
            if NORMED:
                place = sums_pointer + row.to(tl.int64) * SUMS * channels + channel
                total_4 += tl.load(place + 3 * channels, mask=mask, other=0.0)
                total_5 += tl.load(place + 4 * channels, mask=mask, other=0.0)
                if MEAN_GRAD:
                    mean_grad = parameter(mean_grad_pointer, row // parts, channel, channels, 1, mask)
                    total_4 += tl.where(row % parts == 0, area * mean_grad, 0.0)
                    total_5 += mean_grad * tl.load(place + 5 * channels, mask=mask, other=0.0)
        if KIND_P1 == PER_CHANNEL:
            _store(grad_p1_pointer, channel, tl.sum(total_1, 0, keep_dims=True), exists)
        if KIND_P2 == PER_CHANNEL:
            _store(grad_p2_pointer, channel, tl.sum(total_2, 0, keep_dims=True), exists)
        if KIND_BETA == PER_CHANNEL:
            _store(grad_beta_pointer, channel, clamp(tl.sum(total_3, 0, keep_dims=True), LARGEST), exists)
        if NORMED:
            of_z = tl.sum(total_4, 0, keep_dims=True)  # the gradient of the norm's output
            of_z_x = tl.sum(total_5, 0, keep_dims=True)  # times x - mean
            rstd = norm_value(norm_pointer, 3, channel, channels, exists)
            _store(grad_weight_pointer, channel, of_z_x * rstd, exists)
            _store(grad_bias_pointer, channel, of_z, exists)
            if NORMED == CORRECTED:
                scale = norm_value(norm_pointer, 0, channel, channels, exists) / (1.0 * samples * area)
                slope = -scale * rstd * rstd * of_z_x
                mean = norm_value(norm_pointer, 2, channel, channels, exists)
                _store(correction_pointer, channel, slope, exists)
                _store(correction_pointer, channels + channel, -scale * of_z - slope * mean, exists)
    else:
        sample = program - groups
        whole_1 = tl.zeros([1, CHANNELS], tl.float32)
        whole_2 = tl.zeros([1, CHANNELS], tl.float32)
        whole_3 = tl.zeros([1, CHANNELS], tl.float32)
        for group in range(groups):
            channel = group * CHANNELS + tl.arange(0, CHANNELS)[None, :]
            exists = channel < channels
            p_diff = difference(p1_pointer, p2_pointer, sample, channel, p1_n, p1_c, p2_n, p2_c, exists)
            total_1 = tl.zeros([1, CHANNELS], tl.float32)
            total_2 = tl.zeros([1, CHANNELS], tl.float32)
            total_3 = tl.zeros([1, CHANNELS], tl.float32)
            for part in range(parts):
                row = sample * parts + part
                of_p1, of_p2, of_beta = summands(sums_pointer, row, channel, channels, p_diff, exists, SUMS)
                total_1 += of_p1
                total_2 += of_p2
                total_3 += of_beta
            place = sample * channels + channel
            if KIND_P1 == PER_SAMPLE_AND_CHANNEL:
                _store(grad_p1_pointer, place, total_1, exists)
            if KIND_P2 == PER_SAMPLE_AND_CHANNEL:
                _store(grad_p2_pointer, place, total_2, exists)
            if KIND_BETA == PER_SAMPLE_AND_CHANNEL:
                _store(grad_beta_pointer, place, clamp(total_3, LARGEST), exists)
            whole_1 += total_1
            whole_2 += total_2
            whole_3 += total_3
        if KIND_P1 == PER_SAMPLE:
            _store(grad_p1_pointer, sample, tl.sum(whole_1), True)
        if KIND_P2 == PER_SAMPLE:
            _store(grad_p2_pointer, sample, tl.sum(whole_2), True)
        if KIND_BETA == PER_SAMPLE:
            _store(grad_beta_pointer, sample, clamp(tl.sum(whole_3), LARGEST), True)
