"""Every backbone of mmpretrain at its default arguments, and timm's through it. They need acon_mm[coverage]."""

import copy
from importlib.util import find_spec

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from torch import nn

import acon_mm
from acon_mm.analysis.torchvision_import import import_torchvision
from acon_mm.convert import NoActivationsError
from acon_mm.convert.sites import find_sites
from helpers.act_trace import ActivationTrace, acons
from helpers.own_kinds import convert_to_own_kinds

if find_spec("mmpretrain") is None or find_spec("timm") is None:
    pytest.skip("mmpretrain and timm are not installed: acon_mm[coverage]", allow_module_level=True)
import_torchvision()
from mmpretrain import models as _models  # noqa: E402, F401
from mmpretrain.registry import MODELS as PRETRAIN  # noqa: E402


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        yield


pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

ACON = dict(type="AconC", init="paper")
BACKBONES = sorted(
    name for name, cls in PRETRAIN.module_dict.items() if cls.__module__.startswith("mmpretrain.models.backbones.")
)
#: the arguments that have no default
ARGUMENTS = {
    **{
        name: dict(depth=50)
        for name in (
            *("ResNet", "ResNeXt", "ResNeSt", "SEResNet", "SEResNeXt", "CSPResNet", "CSPResNeXt", "SparseResNet"),
            *("Res2Net", "ResNetV1c", "ResNetV1d"),
        )
    },
    **{name: dict(arch="tiny") for name in ("Vig", "PyramidVig")},
    **{name: dict(arch="small") for name in ("PCPVT", "SVT")},
    "CSPDarkNet": dict(depth=53),
    "LeViT": dict(arch="128s"),
    "MobileOne": dict(arch="s0"),
    "RegNet": dict(arch="regnetx_400mf"),
    "RepLKNet": dict(arch="31B"),
    "RepMLPNet": dict(arch="B"),
    "RepVGG": dict(arch="A0"),
    "ResNet_CIFAR": dict(depth=18),
    "SwinTransformerV2": dict(pad_small_map=True),
    "VGG": dict(depth=11),
}
TIMM = (
    "resnet18",
    "resnet50d",
    "regnety_002",
    "efficientnet_b0",
    "mobilenetv3_small_100",
    "convnext_atto",
    "densenet121",
)
#: why nothing is converted in some, or why ``'all'`` is refused
REFUSED = {
    **dict.fromkeys(
        (
            *("BEiTViT", "DaViT", "DistilledVisionTransformer", "MixMIMTransformer", "MlpMixer", "PCPVT", "SVT"),
            *("RevVisionTransformer", "SwinTransformer", "T2T_ViT", "TNT", "ViTSAM"),
            "VisionTransformer",
        ),
        "a GELU in a transformer's feed-forward network",
    ),
    "LeNet5": "a gate: it bounds a value",
    "LeViT": "which does not show where the channels are",  # heads of an attention, joined
}
#: those that take no picture of 64x64
SIZES = {
    **dict.fromkeys(("RepMLPNet", "HiViT", "MViT", "XCiT", "Vig", "PyramidVig", "ViTEVA02", "TinyViT", "VGG"), 224),
    **dict.fromkeys(("Conformer", "DeiT3", "EfficientFormer"), 224),
    "InceptionV3": 128,
    "SwinTransformerV2": 256,
}


def settings(name: str) -> dict:
    return dict(type=f"mmpretrain.{name}", **ARGUMENTS.get(name, {}))


def build(cfg: dict) -> nn.Module:
    model = MODELS.build(cfg)
    model.eval()  # mmpretrain's returns None
    return model


def check(cfg: dict, size: int) -> None:
    torch.manual_seed(0)
    original, x = build(cfg), torch.randn(1, 3, size, size)
    if cfg["type"].startswith("mmpretrain.Sparse"):  # convolutions of what a mask leaves
        from mmpretrain.models.backbones.sparse_convnext import SparseHelper

        SparseHelper._cur_active = torch.ones(1, 1, size // 32, size // 32, dtype=torch.bool)
    with torch.no_grad():
        expected = original(x.clone())
    model = copy.deepcopy(original)
    report = acon_mm.convert_activations(model, ACON, "all")
    assert len(report.converted) == len(acons(model)) > 0
    with torch.no_grad(), ActivationTrace(model) as trace:
        model(x.clone())  # each ACON checks its channels
    assert trace.acons == set(acons(model))
    left = [call.partition(" in ")[2] for call in trace.calls]
    assert all(any(f"{place}.".startswith(f"{kept}.") for kept in report.kept) for place in left), left
    loaded = model.load_state_dict(original.state_dict(), strict=False)
    assert not loaded.unexpected_keys
    new = tuple(f"{name}." for name in acons(model))
    of_its_own = copy.deepcopy(original).load_state_dict(original.state_dict(), strict=False).missing_keys
    assert all(key.startswith(new) for key in {*loaded.missing_keys} - {*of_its_own})
    again = convert_to_own_kinds(copy.deepcopy(original))
    with torch.no_grad():
        torch.testing.assert_close(again(x.clone()), expected, rtol=0, atol=0)
    assert again.state_dict().keys() == original.state_dict().keys()
    built = build(dict(**cfg, act_cfg=ACON, act_sites="all"))
    with torch.no_grad(), ActivationTrace(built) as trace:
        built(x.clone())
    assert all(name in trace.acons for name, acon in acons(built).items() if acon.p1.requires_grad)


@pytest.mark.parametrize("name", [name for name in BACKBONES if name not in REFUSED and name != "TIMMBackbone"])
def test_all_activations(name):
    check(settings(name), SIZES.get(name, 64))


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_refused_has_a_reason(name):
    model = build(settings(name))
    with pytest.raises((NoActivationsError, ValueError), match=REFUSED[name]):
        acon_mm.convert_activations(model, ACON, "all")


@pytest.mark.parametrize("features_only", [True, False])
@pytest.mark.parametrize("name", TIMM)
def test_timm(name, features_only):
    check(dict(type="mmpretrain.TIMMBackbone", model_name=name, features_only=features_only), 64)


@pytest.mark.parametrize("name", ["ResNet", "SEResNet", "Res2Net", "ResNeSt", "HRNet", "RegNet"])
def test_the_papers_sites_are_the_default(name):
    model: nn.Module = build(settings(name))
    chosen = {site.path for site in find_sites(model)[0] if site.paper}
    acon_mm.convert_activations(model, ACON)
    assert set(acons(model)) == chosen and chosen
