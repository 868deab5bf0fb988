"""ACON-A, ACON-B and ACON-C (arXiv 2009.04759)."""

from mmengine.registry import MODELS
from torch import Tensor, nn

from ..ops import functional as F
from ..registering import register
from .base import Acon, reset_beta, reset_slopes


@register(MODELS)
class AconA(Acon):
    r"""ACON-A, which is Swish with a learned beta.

    .. math::
        f(x) = x\,\sigma(\beta x)

    where :math:`\beta` is learned per channel. It starts at 1, or at :data:`RELU_BETA` with ``init='relu'``.
    (Section 3.2.)

    Args:
        num_channels, channel_dim, batch_first, init, inplace: see :class:`Acon`.

    Shape:
        ``(N, ..., C, ...)`` with C at ``channel_dim``; the result has the same shape.
    """

    beta: nn.Parameter

    def _create(self, num_channels: int) -> None:
        self._create_per_channel("beta")

    def reset_parameters(self) -> None:
        reset_beta(self.beta, self.init)

    def _activate(self, x: Tensor, channel_dim: int, inplace: bool) -> Tensor:
        return F.acon_a(x, self.beta, channel_dim, inplace)


@register(MODELS)
class AconB(Acon):
    r"""ACON-B.

    .. math::
        f(x) = (1 - p)\,x\,\sigma(\beta (1 - p)\,x) + p\,x

    where :math:`p` and :math:`\beta` are learned per channel. :math:`p` starts at 0.25 with ``init='paper'`` and at 0
    with ``'swish'`` and ``'relu'``; :math:`\beta` starts as in :class:`AconA`. (Section 3.2; arguments and shapes: see
    :class:`AconA`.)
    """

    p: nn.Parameter
    beta: nn.Parameter

    def _create(self, num_channels: int) -> None:
        self._create_per_channel("p", "beta")

    def reset_parameters(self) -> None:
        nn.init.constant_(self.p, 0.25 if self.init == "paper" else 0.0)
        reset_beta(self.beta, self.init)

    def _activate(self, x: Tensor, channel_dim: int, inplace: bool) -> Tensor:
        return F.acon_b(x, self.p, self.beta, channel_dim, inplace)


@register(MODELS)
class AconC(Acon):
    r"""ACON-C, which learns per channel the two slopes and whether to activate.

    .. math::
        f(x) = (p_1 - p_2)\,x\,\sigma(\beta (p_1 - p_2)\,x) + p_2\,x

    where :math:`p_1, p_2, \beta` are learned per channel. With :math:`\beta \to 0` it is linear; with
    :math:`\beta \to \infty` it is :math:`\max(p_1 x, p_2 x)`. The initial values are

    - ``'swish'``: :math:`p_1 = 1, p_2 = 0, \beta = 1`;
    - ``'relu'``: :math:`p_1 = 1, p_2 = 0`, and :math:`\beta` is :data:`RELU_BETA`;
    - ``'paper'``: :math:`p_1, p_2 \sim N(0, 1), \beta = 1`.

    (Equation 7; arguments and shapes: see :class:`AconA`.)
    """

    p1: nn.Parameter
    p2: nn.Parameter
    beta: nn.Parameter

    def _create(self, num_channels: int) -> None:
        self._create_per_channel("p1", "p2", "beta")

    def reset_parameters(self) -> None:
        reset_slopes(self.p1, self.p2, self.init)
        reset_beta(self.beta, self.init)

    def _activate(self, x: Tensor, channel_dim: int, inplace: bool) -> Tensor:
        return F.acon_c(x, self.p1, self.p2, self.beta, channel_dim, inplace)
