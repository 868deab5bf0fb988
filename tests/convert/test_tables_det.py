"""``act_cfg`` on mmdet's necks and heads: every activation is converted, and rewritten methods compute the same."""

import inspect

import mmdet.models
import pytest
import torch

import acon_mm
from acon_mm.compat import strict_zip
from acon_mm.convert.hosts import host_of
from acon_mm.convert.sites import GATE
from acon_mm.layers import Acon
from helpers.act_trace import ActivationTrace, acons, total
from helpers.det_parts import PARTS, build, call, run, tensors

#: the activations other than ACONs that run in a component, because they are kept
KEPT = {"fsaf": {"relu in relu"}, "rtmdet-ins": {"relu in "}}
#: state that an older checkpoint may lack
OPTIONAL = ("num_batches_tracked", "_extra_state")
#: components whose own activation is not ReLU
OWN = {"rtmdet-ins": dict(type="SiLU")}


@pytest.mark.parametrize("name", PARTS)
def test_every_activation_becomes_an_acon(name):
    """By the config, whether the class takes ``act_cfg`` or not. No other activation runs, and all ACONs learn."""
    model = build(name, act_cfg=dict(type="AconC"))
    with ActivationTrace(model) as trace:
        total(run(name, model)).backward()
    assert trace.calls == KEPT.get(name, set())
    assert trace.acons == set(acons(model)) != set()
    for path, module in acons(model).items():
        assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters()), path


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTS)
def test_the_original_activation_at_every_site_is_the_original(name):
    original, model = build(name), build(name)
    assert acon_mm.convert_activations(model, OWN.get(name, dict(type="ReLU")), "all").converted
    assert model.state_dict().keys() == original.state_dict().keys()
    losses = []
    for each in (model, original):
        torch.manual_seed(0)
        losses.append(total(run(name, each)))
        losses[-1].backward()
    assert losses[0] == losses[1]
    for (key, new), old in strict_zip(model.named_parameters(), original.parameters()):
        torch.testing.assert_close(new.grad, old.grad, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("name", PARTS)
def test_relu_checkpoint_loads(name):
    model = build(name)
    original = model.state_dict()
    acon_mm.convert_activations(model, dict(type="MetaAconC"), "all")
    result = model.load_state_dict(original, strict=False)
    there = model.named_modules(remove_duplicate=False)  # a list of convolutions may have two names
    own = {f"{path}.{key}" for path, module in there if isinstance(module, Acon) for key in module.state_dict()}
    assert set(result.missing_keys) == {key for key in own if not key.endswith(OPTIONAL)} != set()
    assert result.unexpected_keys == []


@pytest.mark.parametrize(
    "name", ["detr-head", "dab-detr-head", "conditional-detr-head", "deformable-detr-head", "maskformer"]
)
def test_meta_acon_does_not_mix_the_pictures_of_a_batch(name):
    """Decoders return (layers, batch, queries, channels). A mean over the second dimension would mix the pictures."""
    model = build(name, act_cfg=dict(type="MetaAconC", init="paper")).eval()
    inputs = tensors(PARTS[name].inputs)
    both = call(name, model, inputs)[1]
    if name == "maskformer":
        inputs[0] = [level + torch.tensor([0.0, 1.0]).view(2, 1, 1, 1) for level in inputs[0]]
    else:
        inputs[0] = inputs[0] + torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
    changed = call(name, model, inputs)[1]
    torch.testing.assert_close(changed[:, 0], both[:, 0])
    assert not torch.allclose(changed[:, 1], both[:, 1])


def test_an_activation_that_upstream_repeats_is_not_repeated():
    """A ReLU after a ReLU changes nothing, an ACON after an ACON does."""
    neck = build("fpn-on-output", act_cfg=dict(type="AconC"))
    assert all(path.endswith(".activate") for path in acons(neck))
    levels = tensors(PARTS["fpn-on-output"].inputs)[0]
    outputs = neck(levels)
    torch.testing.assert_close(outputs[3], neck.fpn_convs[3](outputs[2]), rtol=0, atol=0)


def test_the_recursive_pyramid_refuses_what_it_cannot_convert():
    with pytest.raises(ValueError, match="relu_before_extra_convs=True cannot be converted"):
        build("rfp", add_extra_convs="on_output", relu_before_extra_convs=True, num_outs=6, act_cfg=dict(type="AconC"))


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("retina", {"relu": "never called"}),
        ("fsaf", {"relu": "keeps the distance from a point to an edge of its box from being negative"}),
        (
            "dyhead",
            {"dyhead_blocks.0.scale_attn_module.3": GATE, "dyhead_blocks.0.task_attn_module.conv2.activate": GATE},
        ),
    ],
)
def test_what_is_kept_and_why(name, kept):
    report = acon_mm.convert_activations(build(name), dict(type="AconC"))
    assert report.kept == kept


@pytest.mark.parametrize(
    ("cls", "call"),
    [
        ("FCOSHead", "bbox_pred.clamp(min=0)"),
        ("CondInstBboxHead", "bbox_pred.clamp(min=0)"),
        ("CenterNetUpdateHead", "bbox_pred.clamp(min=0)"),
        ("AutoAssignHead", "bbox_pred.clamp(min=0)"),
        ("CondInstMaskHead", "F.relu(x)"),
        ("RTMDetInsHead", "F.relu(x)"),
        ("RTMDetInsSepBNHead", "F.relu(self.rtm_reg[idx](reg_feat))"),
    ],
)
def test_kept_calls_are_those_of_upstream(cls, call):
    """They are named as in upstream's source, so that a traced call can be matched with its reason."""
    upstream = getattr(mmdet.models, cls)
    assert call in host_of(upstream).kept(None)
    assert any(call in inspect.getsource(base) for base in upstream.__mro__ if base.__module__.startswith("mmdet"))
