"""Files of others and of earlier versions: yolov5's names, and Meta-ACON's scale under its old name or without one."""

import pytest
import torch
from mmcv.cnn import ConvModule
from torch import nn

from acon_mm import MetaAconC
from acon_mm.checkpoints import load_state_dict
from helpers.loading import left_unchanged, refused


def test_yolov5_names():
    """ConvModule's `activate` is `act` there; its Meta-ACON has no norms, its parameters are (1, C, 1, 1)."""
    c = 32
    shapes = {"p1": (1, c, 1, 1), "p2": (1, c, 1, 1), "fc1.weight": (16, c, 1, 1), "fc1.bias": (16,)}
    shapes |= {"fc2.weight": (c, 16, 1, 1), "fc2.bias": (c,)}
    state = {f"act.{name}": torch.randn(shape) for name, shape in shapes.items()}
    state["conv.weight"] = torch.randn(c, 3, 1, 1)
    model = ConvModule(3, c, 1, bias=False, act_cfg=dict(type="MetaAconC", norm_cfg=None))
    report = load_state_dict(model, state)
    assert not (report.started or report.missing or report.dropped) and model.activate.beta_scale == 1
    x = torch.randn(2, 3, 4, 4)
    z = model.conv(x)
    pooled = z.mean((2, 3), keepdim=True)
    hidden = nn.functional.conv2d(pooled, state["act.fc1.weight"], state["act.fc1.bias"])
    beta = nn.functional.conv2d(hidden, state["act.fc2.weight"], state["act.fc2.bias"]).sigmoid()
    p1, p2 = state["act.p1"], state["act.p2"]
    torch.testing.assert_close(model(x), (p1 - p2) * z * (beta * (p1 - p2) * z).sigmoid() + p2 * z)

    with_norms = ConvModule(3, c, 1, bias=False, act_cfg=dict(type="MetaAconC"))
    refused(with_norms, state, r"of activate, the checkpoint does not have bn1.* \(Meta-ACON of yolov5 has no norms")


def test_beta_scale_goes_with_the_parameters():
    saved = MetaAconC(4, init="relu").state_dict()
    for init in ("paper", "swish"):
        module = MetaAconC(4, init=init)
        module.load_state_dict(saved)
        assert module.beta_scale == 80


@pytest.mark.parametrize(
    ("module", "scale", "message"),
    [
        (MetaAconC(4, beta_scale=3.0), 80.0, "beta_scale is 80 in the checkpoint and 3 in the config: leave it out"),
        (MetaAconC(4), float("nan"), "beta_scale must be positive and finite, got nan"),
        (MetaAconC(4), 0.0, "beta_scale must be positive and finite, got 0.0"),
    ],
)
def test_scales_that_are_refused(module, scale, message):
    state = module.state_dict() | {"_extra_state": torch.tensor(scale)}
    with left_unchanged(module), pytest.raises(RuntimeError, match=message):
        module.load_state_dict(state)
    refused(module, {key: value if key == "_extra_state" else value + 1 for key, value in state.items()}, message)


def test_states_of_version_0_1_0():
    """They had no beta_scale: the config's was meant. Those of the authors, (1, C, 1, 1), have the paper's."""
    saved = {name: value for name, value in MetaAconC(4).state_dict().items() if name != "_extra_state"}
    module = MetaAconC(4)
    module.load_state_dict(saved)
    assert module.beta_scale == 2
    module.load_state_dict(saved | {name: saved[name].view(1, 4, 1, 1) for name in ("p1", "p2")})
    assert module.beta_scale == 1


def test_states_with_the_scale_under_its_old_name():
    saved = MetaAconC(4, init="relu").state_dict()
    saved["beta_scale"] = saved.pop("_extra_state").float()
    module, checked = MetaAconC(4), MetaAconC(4)
    module.load_state_dict(saved)
    assert module.beta_scale == 80 and "beta_scale" not in module.state_dict()
    assert not load_state_dict(checked, saved).dropped and checked.beta_scale == 80


@pytest.mark.parametrize("generator", ["channel", "layer", "pixel"])
def test_functional_call_takes_the_state_dict(generator):
    module = MetaAconC(4, generator=generator, beta_scale=3.0)
    module.eval()
    x = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(torch.func.functional_call(module, module.state_dict(), (x,)), module(x))
