"""What the channels of a layer have become, and their betas."""

import pytest
import torch
from torch import nn

from acon_mm import AconA, AconB, AconC, AconFReLU, MetaAconC
from acon_mm.learned import Layer, RecordedBetas, layers_of
from acon_mm.learned.layer import GRID


@pytest.mark.parametrize(
    ("p1", "p2", "beta", "kind"),
    [
        (1.0, 0.0, 40.0, "relu"),
        (0.0, 1.0, 40.0, "relu"),  # max(x, 0) the other way round
        (0.0, -2.0, 40.0, "relu"),  # 2 max(-x, 0)
        (1.0, 0.0, 0.0, "linear"),  # x / 2
        (0.9, 0.9, 40.0, "linear"),
        (0.0, 0.0, 1.0, "linear"),  # nothing at all
        (1.0, 0.0, 1.0, "other"),  # SiLU
        (1.0, 0.5, 40.0, "other"),
    ],
)
def test_kinds(p1, p2, beta, kind):
    layer = Layer("a", "AconC", *(torch.tensor([value]) for value in (p1, p2, beta)))
    assert layer.shares() == {name: float(name == kind) for name in ("linear", "relu", "other")}


def test_curves_are_those_of_the_modules():
    """Those of ACON-A and ACON-B too; ACON-FReLU has none."""
    model = nn.Sequential(AconA(4), AconB(4), AconC(4), AconFReLU(4))
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    layers = layers_of(model)
    assert [(layer.name, layer.type) for layer in layers] == [("0", "AconA"), ("1", "AconB"), ("2", "AconC")]
    x = GRID.expand(1, 4, -1)
    for layer, module in zip(layers, model):
        torch.testing.assert_close(layer.curves(), module(x)[0].detach())
        copy = Layer.from_dict(layer.as_dict())
        torch.testing.assert_close(copy.curves(), layer.curves(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("generator", ["channel", "layer", "pixel"])
def test_betas_of_pictures(generator):
    """The recorded beta gives the output, and the norms of a model in training stay as they are."""
    module = MetaAconC(4, generator=generator, init="paper")
    module(torch.randn(8, 4, 3, 3))
    module.eval()
    x = torch.randn(2, 4, 3, 3)
    recorded = RecordedBetas(module.requires_grad_(False), keep_maps=True)
    y = module(x)
    recorded.stop()
    module(x)
    (beta,) = recorded.calls[""]
    assert beta.shape == (2, 4)
    if generator == "pixel":
        torch.testing.assert_close(beta, x.sigmoid().mean((2, 3)))
        torch.testing.assert_close(recorded.maps[""][0], x.sigmoid().mean(1))
    else:
        d = (module.p1 - module.p2)[:, None, None] * x
        expected = d * torch.sigmoid(beta[..., None, None] * d) + module.p2[:, None, None] * x
        torch.testing.assert_close(y, expected)
    module.train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    recorded = RecordedBetas(module)
    recorded._record("", module, x)
    assert module.training and all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    torch.testing.assert_close(recorded.means()[""], beta.mean(0))
