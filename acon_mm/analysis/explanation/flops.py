"""The operations of an ACON, as mmengine's counter sees them (:mod:`acon_mm.ops.flop_counts`).

A multiply-add of a convolution or matrix product is one operation. So is each other product, sum or difference of an
element; a sigmoid is four.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from ...layers import AconA, AconB, AconC, AconFReLU, MetaAconC
from ...ops.flop_counts import SIGMOID

#: ``x (p2 + (p1 - p2) sigmoid(x (beta (p1 - p2))))``, for each element
_ACON_C = 4 + SIGMOID


def flops(activation: nn.Module, shape: Sequence[int]) -> int | None:
    """The operations of one call, in evaluation.

    Args:
        activation: an ACON with its channels.
        shape: of the input.

    Returns:
        all operations, with those of Meta-ACON's generator; None for other modules.
    """
    elements = math.prod(shape)
    if isinstance(activation, MetaAconC):
        channels, samples = activation.p1.numel(), shape[0]
        betas = elements if activation.generator == "pixel" else channels * samples
        # p1 - p2, and its products with beta
        return _ACON_C * elements + channels + betas + _generator(activation, samples, elements)
    if isinstance(activation, (AconA, AconB, AconC)):
        return _ACON_C * elements + 2 * activation.beta.numel()
    if isinstance(activation, AconFReLU):
        norms = _norm(activation.bn1) + _norm(activation.bn2)
        return (9 + norms + 3 + SIGMOID) * elements  # the window; x - eta, product, sum
    return None


def _generator(activation: MetaAconC, samples: int, elements: int) -> int:
    """The operations of :math:`G`, which is described at :class:`MetaAconC`."""
    if activation.generator == "pixel":
        return (SIGMOID + 1) * elements
    if activation.generator == "layer":
        return elements + (SIGMOID + 1) * samples
    scale = int(activation.beta_scale != 1)
    hidden, channels = len(activation.fc1.weight), len(activation.fc2.weight)
    first = (channels + _norm(activation.bn1)) * hidden
    second = (hidden + _norm(activation.bn2) + SIGMOID + scale) * channels
    return elements + (first + second) * samples


def _norm(norm: nn.Module) -> int:
    """The operations of a norm for each element: a factor and a sum, as of a batch norm in evaluation."""
    return 0 if isinstance(norm, nn.Identity) else 2
