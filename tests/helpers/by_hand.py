"""Meta-ACON-C with its channel-wise generator, in float64 and with norms out of means and variances."""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from .exactness import exact

NORMS = {
    "BN": dict(type="BN"),
    "SyncBN": dict(type="SyncBN"),
    "GN": dict(type="GN", num_groups=2),
    "LN": dict(type="LN"),
    "none": None,
}


def norm_by_hand(norm: nn.Module, x: Tensor, batch_statistics: bool) -> Tensor:
    """A norm on ``(N, C)`` or ``(N, C, H, W)``; ``batch_statistics``: of a batch norm, instead of the running ones."""
    if isinstance(norm, nn.Identity):
        return x
    per_channel = (1, -1, *[1] * (x.dim() - 2))
    grouped = x.unflatten(1, (norm.num_groups, -1)) if isinstance(norm, nn.GroupNorm) else x
    if isinstance(norm, nn.GroupNorm):
        dims = tuple(range(2, grouped.dim()))
    elif isinstance(norm, nn.LayerNorm):
        dims = (1,)
    else:
        dims = (0, *range(2, x.dim()))
    if isinstance(norm, nn.modules.batchnorm._BatchNorm) and not batch_statistics:
        mean, var = norm.running_mean.double().view(per_channel), norm.running_var.double().view(per_channel)
    else:
        mean = grouped.mean(dims, keepdim=True)
        var = (grouped - mean).square().mean(dims, keepdim=True)
    y = ((grouped - mean) / (var + norm.eps).sqrt()).view_as(x)
    if norm.weight is None:
        return y
    return y * norm.weight.double().view(per_channel) + norm.bias.double().view(per_channel)


def meta_by_hand(module: nn.Module, x: Tensor, batch_statistics: bool, fc2_factor: float = 1.0) -> Tensor:
    """The output of a ``MetaAconC``; ``fc2_factor`` multiplies the output of fc2."""
    wide = x.double()
    mean = wide if x.dim() == 2 else wide.flatten(2).mean(2)
    hidden = linear(mean, module.fc1.weight.double().flatten(1), module.fc1.bias.double())
    hidden = norm_by_hand(module.bn1, hidden, batch_statistics)
    hidden = fc2_factor * linear(hidden, module.fc2.weight.double().flatten(1), module.fc2.bias.double())
    beta = module.beta_scale * torch.sigmoid(norm_by_hand(module.bn2, hidden, batch_statistics))
    return exact(wide, module.p1.double(), module.p2.double(), beta, 1)[0]
