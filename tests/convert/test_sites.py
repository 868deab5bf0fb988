"""The sites that are found in a model, and those that ``act_sites`` chooses."""

import pytest

from helpers.act_trace import acons
from helpers.five_models import BASE_CHANNELS, batch, build


@pytest.mark.parametrize("name", ["retinanet", "pspnet"])
def test_the_papers_sites_are_the_backbones_default(name):
    bottleneck = build(name, 50, backbone=dict(act_cfg=dict(type="AconC")))
    assert all(path.endswith(".act2") for path in acons(bottleneck)) and len(acons(bottleneck)) == 16
    basic = build(name, 18, backbone=dict(act_cfg=dict(type="AconC")))
    assert len(acons(basic)) == 16 and {path.rpartition(".")[2] for path in acons(basic)} == {"act1", "act2"}
    for model in (bottleneck, basic):  # the stem and all heads are unchanged
        assert all(path.startswith("backbone.layer") for path in acons(model))


@pytest.mark.parametrize("depth", [34, 101])
@pytest.mark.parametrize("name", ["retinanet", "pspnet"])
def test_other_depths(name, depth):
    model = build(name, depth, backbone=dict(act_cfg=dict(type="AconC")))
    blocks = {34: 3 + 4 + 6 + 3, 101: 3 + 4 + 23 + 3}[depth]
    assert len(acons(model)) == blocks * (2 if depth == 34 else 1)


def test_resnet_v1d_stem():
    backbone = dict(type="ResNetV1d", act_cfg=dict(type="AconC"), act_sites=["stem"])
    model = build("pspnet", 18, backbone=backbone)
    assert [(path, module.num_channels) for path, module in acons(model).items()] == [
        ("backbone.stem.2", BASE_CHANNELS // 2),
        ("backbone.stem.5", BASE_CHANNELS // 2),
        ("backbone.stem.8", BASE_CHANNELS),
    ]


@pytest.mark.parametrize(
    ("sites", "expected"),
    [
        (["stem"], {"backbone.relu"}),
        (["act2", "stem"], {"backbone.relu", *(f"backbone.layer{s}.{b}.act2" for s in (1, 2, 3, 4) for b in (0, 1))}),
        (["layer4.1"], {"backbone.layer4.1.act1", "backbone.layer4.1.act2"}),
        (["layer[12].*.act1"], {f"backbone.layer{s}.{b}.act1" for s in (1, 2) for b in (0, 1)}),
    ],
)
def test_named_sites(sites, expected):
    model = build("retinanet", backbone=dict(act_cfg=dict(type="AconC"), act_sites=sites))
    assert set(acons(model)) == expected
    model(batch("retinanet")[0], mode="tensor")
