"""torch.fx: a model with ACONs can be traced, also for quantization. The graph calls an ACON as one layer."""

import warnings

import pytest
import torch
from torch import nn
from torch.fx.proxy import TraceError
from torch.testing import assert_close

from acon_mm import AconA, AconB, AconC, AconFReLU, MetaAconC

KINDS = {
    "AconA": AconA,
    "AconB": AconB,
    "AconC": AconC,
    "channel": MetaAconC,
    "layer": lambda *args: MetaAconC(*args, generator="layer"),
    "pixel": lambda *args: MetaAconC(*args, generator="pixel"),
    "AconFReLU": AconFReLU,
}


@pytest.fixture(params=KINDS)
def model(request):
    """An ACON whose channels were given and one that took them from the layer before."""
    torch.manual_seed(0)
    make = KINDS[request.param]
    inner = nn.Sequential(nn.Conv2d(4, 6, 1), make())
    return nn.Sequential(nn.Conv2d(3, 4, 3), make(4), inner)


@pytest.mark.parametrize("training", [True, False])
def test_symbolic_trace(model, training):
    model.train(training)
    graph = torch.fx.symbolic_trace(model)
    called = [node.target for node in graph.graph.nodes if node.op == "call_module"]
    assert called == ["0", "1", "2.0", "2.1"]
    assert [node.op for node in graph.graph.nodes].count("call_method") == 0
    assert graph.state_dict().keys() == model.state_dict().keys()
    for shape in ((2, 3, 5, 5), (1, 3, 7, 4), (0, 3, 5, 5)):
        x = torch.randn(shape)
        assert_close(graph(x), model(x), rtol=0, atol=0)
    graph(torch.randn(2, 3, 5, 5)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.slow
def test_quantization(model):
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    x = torch.randn(2, 3, 5, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao.quantization is deprecated
        prepared = prepare_fx(model.eval(), get_default_qconfig_mapping("onednn"), (x,))
        prepared(x)
        torch.backends.quantized.engine = "onednn"
        quantized = convert_fx(prepared)
        assert_close(quantized(x), model(x), rtol=0.2, atol=0.2)
    assert type(quantized.get_submodule("1")) is type(model[1])


def test_an_activation_alone_has_a_clear_error():
    with pytest.raises(TraceError, match=r"torch\.fx cannot trace AconC alone: trace a model that contains it"):
        torch.fx.symbolic_trace(AconC(4))
