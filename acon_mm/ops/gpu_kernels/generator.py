r"""Meta-ACON's generator for GPUs, in Triton: linear layers with batch norms, of all samples.

A layer is ``z = x w^T + b``, ``n = (z - mean) rstd g + c``, ``y = scale sigmoid(n)`` or ``y = n``. A program has
OUTPUTS outputs of all samples, so the statistics of a batch norm need no other program. It takes SAMPLES at a time.

Shapes: x ``(samples, inputs)``, w ``(outputs, inputs)``; z, n and y ``(samples, outputs)``; all others ``(outputs,)``.
The arguments are named as in the other kernels; ``scale``, ``momentum`` and ``eps`` are float32.
"""

# mypy: disallow-untyped-defs=False
# Triton gives the arguments of its kernels their types.
import triton
import triton.language as tl

from .common import LARGEST, clamp, sigmoid
from .per_channel import difference, summands

# The norm of a layer: none, one with running statistics, one with the statistics of the samples.
NO_NORM, RUNNING, BATCH = (tl.constexpr(norm) for norm in range(3))


@triton.jit
def _input(x_pointer, place, inputs, scale, mask, PARTS: tl.constexpr):
    """The input of a layer. It may come as PARTS summands, ``(samples, PARTS, inputs)``, and without a factor."""
    x = tl.load(x_pointer + place, mask=mask, other=0.0)
    for part in tl.static_range(1, PARTS):
        x += tl.load(x_pointer + place + part * inputs, mask=mask, other=0.0)
    return x * scale


@triton.jit
def layer_forward(
    x_pointer, weight_pointer, bias_pointer, norm_weight_pointer, norm_bias_pointer,
    running_mean_pointer, running_var_pointer, tracked_pointer, y_pointer, z_pointer, mean_pointer, rstd_pointer,
    samples, inputs, outputs, x_scale, momentum, eps, scale,
    SAMPLES: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr, ONE_TILE: tl.constexpr, PARTS: tl.constexpr,
    NORM: tl.constexpr, SIGMOID: tl.constexpr,
):  # fmt: skip
    """z, y and the statistics. With those of the samples, the running statistics move as in training.

    ONE_TILE: there are no more than SAMPLES samples, so nothing that is in registers must be read again.
    """
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    exists = output < outputs
    bias = tl.load(bias_pointer + output, mask=exists, other=0.0)
    z = tl.zeros([SAMPLES, OUTPUTS], tl.float32)
    total = tl.zeros([SAMPLES, OUTPUTS], tl.float32)
    for first in range(0, samples, SAMPLES):
        sample = first + tl.arange(0, SAMPLES)
        is_sample = sample < samples
        products = tl.zeros([SAMPLES, OUTPUTS, INPUTS], tl.float32)
        for first_input in range(0, inputs, INPUTS):
            feature = first_input + tl.arange(0, INPUTS)
            there = feature < inputs
            place = sample.to(tl.int64)[:, None] * (PARTS * inputs) + feature[None, :]
            x = _input(x_pointer, place, inputs, x_scale, is_sample[:, None] & there[None, :], PARTS)
            place = output[:, None] * inputs + feature[None, :]
            weight = tl.load(weight_pointer + place, mask=exists[:, None] & there[None, :], other=0.0)
            products += x[:, None, :] * weight[None, :, :]
        mask = is_sample[:, None] & exists[None, :]
        z = tl.where(mask, tl.sum(products, 2) + bias[None, :], 0.0)
        tl.store(z_pointer + sample.to(tl.int64)[:, None] * outputs + output[None, :], z, mask=mask)
        total += z
    tl.debug_barrier()  # what other threads have written is read below

    mean = tl.zeros([OUTPUTS], tl.float32)
    var = tl.zeros([OUTPUTS], tl.float32)
    if NORM == RUNNING:
        mean = tl.load(running_mean_pointer + output, mask=exists, other=0.0)
        var = tl.load(running_var_pointer + output, mask=exists, other=1.0)
    elif NORM == BATCH:
        mean = tl.sum(total, 0) / samples
        squares = tl.zeros([SAMPLES, OUTPUTS], tl.float32)
        for first in range(0, samples, SAMPLES):
            sample = first + tl.arange(0, SAMPLES)
            mask = (sample < samples)[:, None] & exists[None, :]
            if not ONE_TILE:
                z = tl.load(z_pointer + sample.to(tl.int64)[:, None] * outputs + output[None, :], mask=mask, other=0.0)
            deviation = tl.where(mask, z - mean[None, :], 0.0)
            squares += deviation * deviation
        var = tl.sum(squares, 0) / samples
        finite = exists & (var <= LARGEST)  # another batch would spoil the running statistics for good
        moved = tl.load(running_mean_pointer + output, mask=exists, other=0.0)
        tl.store(running_mean_pointer + output, moved + momentum * (mean - moved), mask=finite)
        moved = tl.load(running_var_pointer + output, mask=exists, other=0.0)
        unbiased = var * (samples / (samples - 1.0))
        tl.store(running_var_pointer + output, moved + momentum * (unbiased - moved), mask=finite)
        if tl.program_id(0) == 0:
            tl.store(tracked_pointer, tl.load(tracked_pointer) + 1)

    factor = tl.full([OUTPUTS], 1.0, tl.float32)
    shift = tl.zeros([OUTPUTS], tl.float32)
    if NORM != NO_NORM:
        rstd = 1.0 / tl.sqrt_rn(var + eps)
        tl.store(mean_pointer + output, mean, mask=exists)
        tl.store(rstd_pointer + output, rstd, mask=exists)
        factor = rstd * tl.load(norm_weight_pointer + output, mask=exists, other=0.0)
        shift = tl.load(norm_bias_pointer + output, mask=exists, other=0.0)
    for first in range(0, samples, SAMPLES):
        sample = first + tl.arange(0, SAMPLES)
        mask = (sample < samples)[:, None] & exists[None, :]
        place = sample.to(tl.int64)[:, None] * outputs + output[None, :]
        if not ONE_TILE:
            z = tl.load(z_pointer + place, mask=mask, other=0.0)
        y = (z - mean[None, :]) * factor[None, :] + shift[None, :]
        if SIGMOID:
            y = scale * sigmoid(y)
        tl.store(y_pointer + place, y, mask=mask)


@triton.jit
def layer_backward(
    grad_y_pointer, sums_pointer, p1_pointer, p2_pointer, x_pointer, y_pointer, z_pointer, mean_pointer, rstd_pointer,
    norm_weight_pointer, grad_z_pointer, grad_weight_pointer, grad_bias_pointer, grad_norm_weight_pointer,
    grad_norm_bias_pointer, grad_p1_pointer, grad_p2_pointer,
    samples, inputs, outputs, x_scale, scale,
    SAMPLES: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr, ONE_TILE: tl.constexpr, PARTS: tl.constexpr,
    SUM_PARTS: tl.constexpr, SUMS: tl.constexpr, NORM: tl.constexpr, SIGMOID: tl.constexpr,
):  # fmt: skip
    """The gradients of z and of all parameters of a layer.

    SIGMOID: y is beta, and its gradient comes as ACON-C's sums ``(samples, SUM_PARTS, SUMS, outputs)``. Then the
    gradients of p1 and p2, which are per channel, come from the same sums. ONE_TILE: as in `layer_forward`.
    """
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    exists = output < outputs
    mean = tl.zeros([OUTPUTS], tl.float32)
    rstd = tl.zeros([OUTPUTS], tl.float32)
    if NORM != NO_NORM:
        mean = tl.load(mean_pointer + output, mask=exists, other=0.0)
        rstd = tl.load(rstd_pointer + output, mask=exists, other=0.0)
    if SIGMOID:
        p_diff = difference(p1_pointer, p2_pointer, 0, output[None, :], 0, 1, 0, 1, exists[None, :])
    of_p1 = tl.zeros([SAMPLES, OUTPUTS], tl.float32)
    of_p2 = tl.zeros([SAMPLES, OUTPUTS], tl.float32)
    of_norm_weight = tl.zeros([SAMPLES, OUTPUTS], tl.float32)
    of_norm_bias = tl.zeros([SAMPLES, OUTPUTS], tl.float32)
    grad = tl.zeros([SAMPLES, OUTPUTS], tl.float32)
    normalized = tl.zeros([SAMPLES, OUTPUTS], tl.float32)
    # The gradient of n, and its sums.
    for first in range(0, samples, SAMPLES):
        sample = first + tl.arange(0, SAMPLES)
        mask = (sample < samples)[:, None] & exists[None, :]
        place = sample.to(tl.int64)[:, None] * outputs + output[None, :]
        if SIGMOID:
            grad = tl.zeros([SAMPLES, OUTPUTS], tl.float32)
            for part in tl.static_range(SUM_PARTS):
                row = sample[:, None] * SUM_PARTS + part
                more_p1, more_p2, more_beta = summands(sums_pointer, row, output[None, :], outputs, p_diff, mask, SUMS)
                of_p1 += more_p1
                of_p2 += more_p2
                grad += more_beta
            y = tl.load(y_pointer + place, mask=mask, other=0.0)
            grad = clamp(grad, LARGEST) * (y * (1.0 - y / scale))
        else:
            grad = tl.load(grad_y_pointer + place, mask=mask, other=0.0)
        of_norm_bias += grad
        if NORM != NO_NORM:
            normalized = (tl.load(z_pointer + place, mask=mask, other=0.0) - mean[None, :]) * rstd[None, :]
            of_norm_weight += grad * normalized
        if not ONE_TILE:
            tl.store(grad_z_pointer + place, grad, mask=mask)
    grad_norm_bias, grad_norm_weight = tl.sum(of_norm_bias, 0), tl.sum(of_norm_weight, 0)
    if SIGMOID:
        tl.store(grad_p1_pointer + output, tl.sum(of_p1, 0), mask=exists)
        tl.store(grad_p2_pointer + output, tl.sum(of_p2, 0), mask=exists)
    tl.debug_barrier()  # what other threads have written is read below

    # The gradient of z.
    slope = tl.full([OUTPUTS], 1.0, tl.float32)
    if NORM != NO_NORM:
        tl.store(grad_norm_bias_pointer + output, grad_norm_bias, mask=exists)
        tl.store(grad_norm_weight_pointer + output, grad_norm_weight, mask=exists)
        slope = rstd * tl.load(norm_weight_pointer + output, mask=exists, other=0.0)
    of_bias = tl.zeros([SAMPLES, OUTPUTS], tl.float32)
    for first in range(0, samples, SAMPLES):
        sample = first + tl.arange(0, SAMPLES)
        mask = (sample < samples)[:, None] & exists[None, :]
        place = sample.to(tl.int64)[:, None] * outputs + output[None, :]
        if not ONE_TILE:
            grad = tl.load(grad_z_pointer + place, mask=mask, other=0.0)
            if NORM == BATCH:
                normalized = (tl.load(z_pointer + place, mask=mask, other=0.0) - mean[None, :]) * rstd[None, :]
        if NORM == BATCH:
            grad -= (grad_norm_bias[None, :] + normalized * grad_norm_weight[None, :]) / samples
        grad = tl.where(mask, grad * slope[None, :], 0.0)
        of_bias += grad
        tl.store(grad_z_pointer + place, grad, mask=mask)
    tl.store(grad_bias_pointer + output, tl.sum(of_bias, 0), mask=exists)
    tl.debug_barrier()

    for first_input in range(0, inputs, INPUTS):
        feature = first_input + tl.arange(0, INPUTS)
        there = feature < inputs
        products = tl.zeros([SAMPLES, OUTPUTS, INPUTS], tl.float32)
        for first in range(0, samples, SAMPLES):
            sample = first + tl.arange(0, SAMPLES)
            is_sample = sample < samples
            if not ONE_TILE:
                place = sample.to(tl.int64)[:, None] * outputs + output[None, :]
                grad = tl.load(grad_z_pointer + place, mask=is_sample[:, None] & exists[None, :], other=0.0)
            place = sample.to(tl.int64)[:, None] * (PARTS * inputs) + feature[None, :]
            x = _input(x_pointer, place, inputs, x_scale, is_sample[:, None] & there[None, :], PARTS)
            products += grad[:, :, None] * x[:, None, :]
        mask = exists[:, None] & there[None, :]
        tl.store(grad_weight_pointer + output[:, None] * inputs + feature[None, :], tl.sum(products, 0), mask=mask)


@triton.jit
def input_gradient(
    grad_z_pointer, weight_pointer, grad_x_pointer, samples, inputs, outputs, input_tiles, scale,
    SAMPLES: tl.constexpr, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr,
):  # fmt: skip
    """``scale grad_z w``, the gradient of x. Programs: sample tiles x input tiles."""
    program = tl.program_id(0)
    sample = program // input_tiles * SAMPLES + tl.arange(0, SAMPLES)
    feature = program % input_tiles * INPUTS + tl.arange(0, INPUTS)
    is_sample, there = sample < samples, feature < inputs
    products = tl.zeros([SAMPLES, OUTPUTS, INPUTS], tl.float32)
    for first in range(0, outputs, OUTPUTS):
        output = first + tl.arange(0, OUTPUTS)
        exists = output < outputs
        place = sample.to(tl.int64)[:, None] * outputs + output[None, :]
        grad = tl.load(grad_z_pointer + place, mask=is_sample[:, None] & exists[None, :], other=0.0)
        place = output[:, None] * inputs + feature[None, :]
        weight = tl.load(weight_pointer + place, mask=exists[:, None] & there[None, :], other=0.0)
        products += grad[:, :, None] * weight[None, :, :]
    place = sample.to(tl.int64)[:, None] * inputs + feature[None, :]
    tl.store(grad_x_pointer + place, tl.sum(products, 1) * scale, mask=is_sample[:, None] & there[None, :])
