"""Parameters that a tool for structured pruning has cut: the number of channels is theirs."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from acon_mm import AconA, AconB, AconC, AconFReLU, MetaAconC


def cut(module: nn.Module, keep: torch.Tensor) -> None:
    """Keep some of 8 channels, as such a tool does: it replaces parameters, and attributes of layers that it knows."""
    for layer in module.modules():
        for name, parameter in list(layer.named_parameters(recurse=False)):
            for dim in [d for d, size in enumerate(parameter.shape) if size == 8]:
                parameter = parameter.index_select(dim, keep)
            setattr(layer, name, nn.Parameter(parameter.detach()))
        if isinstance(layer, nn.BatchNorm2d) and layer.num_features == 8:
            layer.num_features = len(keep)
            for name in ("running_mean", "running_var"):
                setattr(layer, name, getattr(layer, name)[keep])


@pytest.mark.parametrize("norm_cfg", [dict(type="BN"), None], ids=["BN", "none"])
@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("cls", [AconA, AconB, AconC, MetaAconC, AconFReLU])
def test_channels_are_those_of_the_parameters(cls, given, norm_cfg):
    torch.manual_seed(0)
    keep = torch.tensor([0, 2, 3, 7])
    options = {} if cls in (AconA, AconB, AconC) else {"norm_cfg": norm_cfg}
    activation = nn.Sequential(nn.Conv2d(3, 8, 1), cls(8 if given else None, **options))[1].eval()
    for name, parameter in activation.named_parameters():
        # The generator's layers see the cut channels only by values of 0.
        (nn.init.zeros_ if name.startswith(("fc1", "fc2")) else nn.init.normal_)(parameter)
    x = torch.randn(2, 8, 3, 3)
    expected = activation(x)[:, keep]
    cut(activation, keep)
    assert_close(activation(x[:, keep]), expected)
    assert activation.num_channels == 4 and "4, init=" in repr(activation)
    with pytest.raises(ValueError, match="has 4 channels, at dimension 1, and got an input of shape"):
        activation(torch.randn(2, 5, 3, 3))
