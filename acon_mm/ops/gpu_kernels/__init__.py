r"""ACON-C's kernels for GPUs, in Triton.

``reference.py`` explains the formula, ``csrc/gpu*.cpp`` and ``gpu_launches.py`` launch them. ``generator.py``
has Meta-ACON's generator.

A tensor is walked in the order of its memory, as ``(S, B, C, I)``: S samples of B blocks, each with C channels of I
elements.

- ``forward_planes``, ``backward_planes``: a plane is the I elements of one sample, block and channel.
- ``forward_flat``, ``backward_flat``: consecutive elements of a block, for small planes. These need not begin at an
  address that is a multiple of 16 bytes, where wide loads begin.
- ``forward_rows``, ``backward_rows``: channels are last in memory (I = 1); a row is the C elements of one position.

``backward_*`` keep their sums in registers over many tiles. They write, per sample, part and channel, the sums that
the gradients of p1, p2 and beta are made of: ``(S, parts, SUMS, C)``. ``finish`` adds these. Where no parameter has a
sample dimension, the samples count as blocks and S is 1.

NORMED: x is the input of a batch norm, and the ACON is that of its output. ``norm_values`` makes what the norm computes
with: ``(4, C)``, the rows scale, shift, mean and 1/std.

Arguments that end in ``_pointer`` are tensors, those in capitals are constants, ``*_n`` and ``*_c`` are the strides of
a parameter by sample and channel. All other arguments are int32; offsets of elements are int64.
"""

from .backward import backward_flat, backward_planes, backward_rows
from .forward import forward_flat, forward_planes, forward_rows
from .generator import input_gradient, layer_backward, layer_forward
from .per_channel import finish, norm_values

__all__ = [
    "backward_flat",
    "backward_planes",
    "backward_rows",
    "finish",
    "forward_flat",
    "forward_planes",
    "forward_rows",
    "input_gradient",
    "layer_backward",
    "layer_forward",
    "norm_values",
]
