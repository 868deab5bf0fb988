"""What is no activation of a feature map, or is not the module's own, is kept with a reason."""

import torch
from torch import nn
from torch.nn import functional as F

import acon_mm
from helpers.act_trace import ActivationTrace, acons
from helpers.ways import ACON, Two, of


def hard_swishes(self, x):
    x = F.relu(self.a(x))
    return x * F.relu6(x + 3.0, inplace=True) / 6 + x * (F.relu6(3 + x) / 6) + F.relu6(x.add(3)) / 6 * x


def test_layers_of_pytorch_that_activate_inside_are_kept():
    encoder = nn.TransformerEncoderLayer(4, 2, 8, activation=nn.ReLU())
    model = nn.Sequential(
        nn.TransformerEncoder(encoder, 1, enable_nested_tensor=False),
        nn.Linear(4, 4),
        nn.ReLU(),
        nn.RNNCell(4, 4, nonlinearity="relu"),
    )
    report = acon_mm.convert_activations(model, ACON)
    reason = "a layer of PyTorch's own computes it together with other things"
    assert report.converted == ["2"] and report.kept == {"0.layers.0.activation": reason, "3.nonlinearity": reason}


def test_sigmoids_in_pieces_are_kept():
    model = of(Two, hard_swishes)
    report = acon_mm.convert_activations(model, ACON)
    assert report.converted == ["act_"] and all("a gate" in reason for reason in report.kept.values())
    assert list(report.kept) == ["F.relu6(x + 3.0, inplace=True)", "F.relu6(3 + x)", "F.relu6(x.add(3))"]


class Distilled(Two):
    """It hides its teacher, which is not trained."""

    def __init__(self):
        super().__init__()
        self.__dict__["teacher"] = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())

    def forward(self, x):
        return F.relu(self.a(x)) - self.teacher(x)


def test_a_hidden_teacher_stays():
    model = Distilled()
    assert acon_mm.convert_activations(model, ACON).converted == ["act_"] and type(model.teacher[1]) is nn.ReLU


class Weighted(Two):
    """A weighted sum, whose weights are made positive by the ReLU that the features have, too."""

    def __init__(self):
        super().__init__(nn.ReLU())
        self.weights, self.more = nn.Parameter(torch.ones(2)), nn.ParameterList([torch.ones(1), torch.ones(1)])

    def forward(self, x):
        weights = self.act(self.weights)
        for weight in self.more:
            x = x * F.relu(weight)
        return self.act(self.a(x)) * weights[0] + F.silu(self.a(x)) * weights[1] + F.elu(self.more[0])


def test_weights_of_a_sum_are_kept():
    model = Weighted()
    report = acon_mm.convert_activations(model, ACON)
    reason = "its input is a parameter or buffer, no feature map"
    assert report.kept == dict.fromkeys(["act", "F.relu(weight)", "F.elu(self.more[0])"], reason)
    assert list(acons(model)) == report.converted == ["act1", "act2"]
    with ActivationTrace(model) as trace:
        model(torch.randn(2, 3, 4, 4))
    assert trace.calls == {"relu in act", "relu in ", "elu in "} and trace.acons == {"act1", "act2"}
