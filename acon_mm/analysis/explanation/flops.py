"""The floating-point operations of an ACON. A sigmoid counts as 4: negate, exponential, add, divide."""

import math
from collections.abc import Sequence

from torch import nn

from ...layers import AconA, AconB, AconC, AconFReLU, MetaAconC

_SIGMOID = 4
#: ``d x sigmoid(beta d x) + p x``, for each element; ``d`` is computed once for each channel
_ACON_C = 5 + _SIGMOID


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
        channels = activation.p1.numel()
        return _ACON_C * elements + channels + _generator(activation, shape[0], elements)
    if isinstance(activation, AconA):
        return (2 + _SIGMOID) * elements
    if isinstance(activation, (AconB, AconC)):
        return _ACON_C * elements + activation.beta.numel()
    if isinstance(activation, AconFReLU):
        norms = _norm(activation.bn1) + _norm(activation.bn2)
        return (2 * 9 + norms + 3 + _SIGMOID) * elements  # the window with its bias; x - eta, product, sum
    return None


def _generator(activation: MetaAconC, samples: int, elements: int) -> int:
    """The operations of :math:`G`, which is described at :class:`MetaAconC`."""
    scale = int(activation.beta_scale != 1)
    if activation.generator == "pixel":
        return (_SIGMOID + scale) * elements
    if activation.generator == "layer":
        return elements + (_SIGMOID + scale) * samples
    hidden, channels = len(activation.fc1.weight), len(activation.fc2.weight)
    first = (2 * channels + _norm(activation.bn1)) * hidden
    second = (2 * hidden + _norm(activation.bn2) + _SIGMOID + scale) * channels
    return elements + (first + second) * samples


def _norm(norm: nn.Module) -> int:
    """The operations of a norm for each element: a factor and a sum, as of a batch norm in evaluation."""
    return 0 if isinstance(norm, nn.Identity) else 2
