"""What ACON is compared with: the formula as it is published, and the activations that users have now.

The published forms compute what :class:`acon_mm.AconC` and :class:`acon_mm.MetaAconC` compute, operator by operator,
and let autograd keep what it wants.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ...layers import AconC, MetaAconC
from ...ops import functional, reference


def official(x: Tensor, p1: Tensor, p2: Tensor, beta: Tensor) -> Tensor:
    """The authors' expression: each product of x is written out, and computed, twice."""
    return (p1 * x - p2 * x) * torch.sigmoid(beta * (p1 * x - p2 * x)) + p2 * x


def yolov5(x: Tensor, p1: Tensor, p2: Tensor, beta: Tensor) -> Tensor:
    """The expression of yolov5, with the product shared."""
    d = (p1 - p2) * x
    return d * torch.sigmoid(beta * d) + p2 * x


class OfficialAconC(AconC):
    """ACON-C in the authors' expression."""

    form: Callable[..., Tensor] = staticmethod(official)

    def forward(self, x: Tensor) -> Tensor:
        dim = self._channel_dim_of(x)
        return self.form(x, *(reference.align(p, x, dim) for p in (self.p1, self.p2, self.beta)))


class OfficialMetaAconC(MetaAconC):
    """Meta-ACON-C in the authors' expression: the mean taken twice over, one dimension at a time."""

    form: Callable[..., Tensor] = staticmethod(official)

    def forward(self, x: Tensor) -> Tensor:
        dim = self._channel_dim_of(x)
        mean = x
        for space in sorted((d for d in range(1, x.dim()) if d != dim % x.dim()), reverse=True):
            mean = mean.mean(space)
        beta = self._channel_beta(mean.float())
        return self.form(x, *(reference.align(p, x, dim) for p in (self.p1, self.p2, beta)))


class Yolov5AconC(OfficialAconC):
    """ACON-C in yolov5's expression."""

    form = staticmethod(yolov5)


class Yolov5MetaAconC(OfficialMetaAconC):
    """Meta-ACON-C in yolov5's expression."""

    form = staticmethod(yolov5)


class FallbackAconC(AconC):
    """ACON-C as it runs without compiled kernels."""

    def forward(self, x: Tensor) -> Tensor:
        return functional._AconC.apply(x, self.p1, self.p2, self.beta, self._channel_dim_of(x), "reference")


class FallbackMetaAconC(MetaAconC):
    """Meta-ACON-C as it runs without compiled kernels."""

    def forward(self, x: Tensor) -> Tensor:
        dim = self._channel_dim_of(x)
        mean = x.mean([d for d in range(1, x.dim()) if d != dim % x.dim()], dtype=torch.float32)
        return functional._AconC.apply(x, self.p1, self.p2, self._channel_beta(mean), dim, "reference")


#: ours, and the same in the forms that it is compared with
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
