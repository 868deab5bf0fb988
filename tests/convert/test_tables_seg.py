"""``act_cfg`` on mmseg's components: every activation is converted, and rewritten methods compute the same."""

import copy

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from torch import nn

import acon_mm
from acon_mm.compat import strict_zip
from helpers.act_trace import ActivationTrace, acons, total
from helpers.seg_parts import PARTS, build, inputs

#: the activations other than ACONs that run in a component, because they are kept
KEPT = {
    "ham": {"relu in hamburger"},
}
#: state that an older checkpoint may lack
OPTIONAL = ("num_batches_tracked", "_extra_state")
#: components whose own activation is not ReLU
OWN = {"mscan": dict(type="GELU"), "feature2pyramid": dict(type="GELU"), "mobilenetv2": dict(type="ReLU6")}
#: components with activations of several types, or with learned ones, which no single act_cfg restores
MIXED = ("cgnet", "mobilenetv3", "dpt")


@pytest.mark.parametrize("name", PARTS)
def test_every_activation_becomes_an_acon(name):
    """By the config, whether the class takes ``act_cfg`` or not. No other activation runs, and all ACONs learn."""
    model = build(name, act_cfg=dict(type="AconC"))
    if name in ("resnest", "resnext", "hrnet", "bisenetv1", "icnet"):  # the paper's sites are the default
        acon_mm.convert_activations(model, dict(type="AconC"), "all")
    model.train()
    with ActivationTrace(model) as trace:
        total(model(inputs(name))).backward()
    assert trace.calls == KEPT.get(name, set())
    assert trace.acons == set(acons(model)) != set()
    for path, module in acons(model).items():
        assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters()), path
    model.eval()
    model(inputs(name)[1] if name in ("pid", "ddr") else inputs(name))  # these have one branch less in evaluation


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PARTS if name not in (*MIXED, "mit")])
def test_the_original_activation_at_every_site_is_the_original(name):
    original = build(name)
    model = copy.deepcopy(original)
    assert acon_mm.convert_activations(model, OWN.get(name, dict(type="ReLU")), "all").converted
    assert model.state_dict().keys() == original.state_dict().keys()
    losses = []
    for each in (model, original):
        torch.manual_seed(0)
        losses.append(total(each(inputs(name))))
        losses[-1].backward()
    assert losses[0] == losses[1]
    for (key, new), old in strict_zip(model.named_parameters(), original.parameters()):
        torch.testing.assert_close(new.grad, old.grad, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize(
    ("name", "operations"),
    [
        ("fpn", {"relu"}),
        ("cgnet", {"_prelu_kernel", "relu"}),
        ("mscan", {"gelu"}),
        ("mobilenetv2", {"hardtanh"}),
        ("mobilenetv3", {"hardswish", "relu"}),
    ],
)
def test_the_trace_sees_the_original_activations(name, operations):
    """So that an empty trace of a converted component means something."""
    model = build(name)
    with ActivationTrace(model) as trace:
        model(inputs(name))
    assert {call.partition(" in ")[0] for call in trace.calls} == operations


def test_attention_keeps_its_gelus_where_no_act_cfg_of_its_own_reaches_them():
    model = build("mit")
    with pytest.raises(acon_mm.convert.NoActivationsError, match="a GELU in a transformer's feed-forward network"):
        acon_mm.convert_activations(model, dict(type="AconC"))


@pytest.mark.parametrize(
    ("cfg", "reason"),
    [
        (dict(type="FFN", embed_dims=8, act_cfg=dict(type="QuickGELU")), "a GELU in a transformer's feed-forward"),
        (
            dict(type="CLIPTextEncoder", vocabulary=["a"], embed_dims=8, num_layers=1, total_vocab_size=9),
            "a language model, whose weights are downloaded as they are",
        ),
    ],
)
def test_what_is_kept_of_clip(cfg, reason):
    with DefaultScope.overwrite_default_scope("mmseg"):
        model = MODELS.build(cfg)
    with pytest.raises(acon_mm.convert.NoActivationsError, match=reason):
        acon_mm.convert_activations(model, dict(type="AconC"))


@pytest.mark.parametrize("name", [name for name in PARTS if name != "mit"])
def test_relu_checkpoint_loads(name):
    """The weights of a ReLU network fit. Only the learned slopes of a PReLU are not used."""
    model = build(name)
    original = model.state_dict()
    acon_mm.convert_activations(model, dict(type="MetaAconC"), "all")
    result = model.load_state_dict(original, strict=False)
    own = {f"{path}.{key}" for path, module in acons(model).items() for key in module.state_dict()}
    assert set(result.missing_keys) == {key for key in own if not key.endswith(OPTIONAL)} != set()
    slopes = {f"{path}.weight" for path, module in build(name).named_modules() if isinstance(module, nn.PReLU)}
    assert set(result.unexpected_keys) == slopes
