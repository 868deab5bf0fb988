"""The shipped configs: samples, keys, and the time that their models take to build."""

import pytest

from acon_mm.analysis.config_coverage import configs
from acon_mm.analysis.config_coverage.build_time import build_times
from helpers.coverage_models import segmentor


def test_a_sample_has_configs_of_all_families():
    names = ["a/x/1", "a/x/2", "a/y/1", "b/z/1", "b/z/2", "b/z/3"]
    assert configs.sample(names, 2) == ["a/x/1", "a/y/1"]
    assert configs.sample(names, 4) == ["a/x/1", "a/x/2", "a/y/1", "b/z/1"]
    assert configs.sample(names, 9) == names


def test_models_with_equal_layers_have_one_key():
    model = segmentor("NoActivation", loss_decode=dict(type="CrossEntropyLoss"))
    key = configs.layers_key(model, "mmseg/a.py")
    other = segmentor("NoActivation", num_classes=19, loss_decode=dict(type="DiceLoss"))
    assert configs.layers_key(other, "mmseg/b.py") == key
    assert configs.layers_key(model, "mmdet/a.py") != key
    assert configs.layers_key(segmentor("NotCalled"), "mmseg/a.py") != key


@pytest.mark.slow
def test_build_times_convert_the_backbone_and_the_heads():
    """A ResNet-18 has 17 activations, a RetinaHead 8. (The times depend on the machine.)"""
    times = build_times("mmdet/retinanet/retinanet_r18_fpn_1x_coco.py", dict(type="AconC"), rounds=1)
    assert times.sites == 25
    assert min(times.unchanged, times.converted) > 0
    assert str(times).endswith(f"with 25 activations converted: {100 * times.extra:+.1f} %")
