"""The forms that ACON is compared with: the authors', yolov5's, and ours without compiled kernels.

All compute the same as :class:`acon_mm.AconC` and :class:`acon_mm.MetaAconC`. The authors' and yolov5's do it one
operator after the other, and autograd keeps every intermediate result that it needs.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...layers import AconC, MetaAconC
from ...ops import operators, reference


def official(x: Tensor, p1: Tensor, p2: Tensor, beta: Tensor) -> Tensor:
    """The authors' expression, which computes each product with x twice."""
    return (p1 * x - p2 * x) * torch.sigmoid(beta * (p1 * x - p2 * x)) + p2 * x


def yolov5(x: Tensor, p1: Tensor, p2: Tensor, beta: Tensor) -> Tensor:
    """yolov5's expression, which computes the product with x once."""
    d = (p1 - p2) * x
    return d * torch.sigmoid(beta * d) + p2 * x


def _align(x: Tensor, dim: int, *values: Any) -> list[Tensor]:
    """Values for each channel, in shapes that broadcast to x."""
    return [reference.align(value, x, dim) for value in values]


class OfficialAconC(AconC):
    """ACON-C in the authors' expression."""

    form: Callable[..., Tensor] = staticmethod(official)

    def _activate(self, x: Tensor, channel_dim: int, inplace: bool) -> Tensor:
        return self.form(x, *_align(x, channel_dim, self.p1, self.p2, self.beta))


class OfficialMetaAconC(MetaAconC):
    """Meta-ACON-C in the authors' expression, which takes the mean over one dimension after the other."""

    form: Callable[..., Tensor] = staticmethod(official)

    def _activate(self, x: Tensor, channel_dim: int, inplace: bool) -> Tensor:
        mean = x
        for space in sorted((d for d in range(1, x.dim()) if d != channel_dim % x.dim()), reverse=True):
            mean = mean.mean(space)
        beta = self._channel_beta(mean.float())
        return self.form(x, *_align(x, channel_dim, self.p1, self.p2, beta))


class Yolov5AconC(OfficialAconC):
    """ACON-C in yolov5's expression."""

    form = staticmethod(yolov5)


class Yolov5MetaAconC(OfficialMetaAconC):
    """Meta-ACON-C in yolov5's expression."""

    form = staticmethod(yolov5)


_fallback = operators.with_autograd(reference.forward, reference.backward)


class FallbackAconC(AconC):
    """ACON-C as it runs without compiled kernels."""

    def _activate(self, x: Tensor, channel_dim: int, inplace: bool) -> Tensor:
        return _fallback(x, self.p1, self.p2, self.beta, channel_dim)


class FallbackMetaAconC(MetaAconC):
    """Meta-ACON-C as it runs without compiled kernels."""

    def _activate(self, x: Tensor, channel_dim: int, inplace: bool) -> Tensor:
        beta = self._channel_beta(reference.spatial_mean(x, channel_dim))
        return _fallback(x, self.p1, self.p2, beta, channel_dim)


#: the forms, by type of ACON
FORMS: dict[str, dict[str, type[nn.Module]]] = {
    "AconC": {
        "ours": AconC,
        "fallback": FallbackAconC,
        "authors": OfficialAconC,
        "yolov5": Yolov5AconC,
    },
    "MetaAconC": {
        "ours": MetaAconC,
        "fallback": FallbackMetaAconC,
        "authors": OfficialMetaAconC,
        "yolov5": Yolov5MetaAconC,
    },
}
