r"""Meta-ACON's channel-wise generator: its values by name, and its formula in plain PyTorch.

.. math::
    \beta = k\,\sigma(BN_2(fc_2(BN_1(fc_1(\bar{x})))))

where :math:`\bar{x}` is the mean of ``x`` over space. (arXiv 2009.04759, section 3.3, with a scale :math:`k`.)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Generator(NamedTuple):
    """All values of the generator.

    The operator ``acon_mm::meta_acon_c`` has arguments of the same names in the same order, and the struct
    ``Generator`` in ``csrc/generator.h`` has the same values. All tensors of both norms are None where there are no
    norms.

    Shape:
        ``fc1_weight`` ``(H, C, 1, 1)``, ``fc2_weight`` ``(C, H, 1, 1)``; other tensors of fc1 and bn1 ``(H,)``, of fc2
        and bn2 ``(C,)``; ``num_batches_tracked`` ``()``.
    """

    fc1_weight: Tensor
    fc1_bias: Tensor
    bn1_weight: Tensor | None
    bn1_bias: Tensor | None
    bn1_running_mean: Tensor | None
    bn1_running_var: Tensor | None
    bn1_num_batches_tracked: Tensor | None
    fc2_weight: Tensor
    fc2_bias: Tensor
    bn2_weight: Tensor | None
    bn2_bias: Tensor | None
    bn2_running_mean: Tensor | None
    bn2_running_var: Tensor | None
    bn2_num_batches_tracked: Tensor | None
    #: whether the norms use the statistics of the samples and move their running statistics, as in training
    batch_statistics: bool
    #: of both norms
    momentum: float
    eps: float
    #: the scale k
    beta_scale: float

    def learned(self) -> tuple[Tensor, ...]:
        """The tensors that are learned."""
        layers = self.fc1_weight, self.fc1_bias, self.fc2_weight, self.fc2_bias
        if self.bn1_weight is None or self.bn1_bias is None or self.bn2_weight is None or self.bn2_bias is None:
            return layers
        return *layers, self.bn1_weight, self.bn1_bias, self.bn2_weight, self.bn2_bias


def generate_beta(mean: Tensor, generator: Generator) -> Tensor:
    """beta of the mean ``(N, C)`` of x, ``(N, C)``. It moves running statistics where ``generator`` has some."""
    hidden = _layer(mean, "fc1", "bn1", generator)
    return generator.beta_scale * torch.sigmoid(_layer(hidden, "fc2", "bn2", generator))


def _layer(x: Tensor, linear: str, norm: str, generator: Generator) -> Tensor:
    value = generator._asdict()
    y = F.linear(x, value[f"{linear}_weight"].flatten(1), value[f"{linear}_bias"])
    if value[f"{norm}_weight"] is None:
        return y
    weight, bias, training = value[f"{norm}_weight"], value[f"{norm}_bias"], generator.batch_statistics
    mean, var = value[f"{norm}_running_mean"], value[f"{norm}_running_var"]
    if not training or mean is None or var is None:
        return F.batch_norm(y, mean, var, weight, bias, training, generator.momentum, generator.eps)
    if value[f"{norm}_num_batches_tracked"] is not None:
        value[f"{norm}_num_batches_tracked"].add_(1)
    moved_mean, moved_var = mean.clone(), var.clone()
    y = F.batch_norm(y, moved_mean, moved_var, weight, bias, training, generator.momentum, generator.eps)
    finite = moved_var.isfinite()  # a batch that is not finite would spoil the statistics for good
    mean.copy_(moved_mean.where(finite, mean)), var.copy_(moved_var.where(finite, var))
    return y
