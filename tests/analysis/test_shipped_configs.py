"""The shipped configs: samples and keys."""

from acon_mm.analysis import shipped_configs
from helpers.coverage_models import segmentor


def test_a_sample_has_configs_of_all_families():
    names = ["a/x/1", "a/x/2", "a/y/1", "b/z/1", "b/z/2", "b/z/3"]
    assert shipped_configs.sample(names, 2) == ["a/x/1", "a/y/1"]
    assert shipped_configs.sample(names, 4) == ["a/x/1", "a/x/2", "a/y/1", "b/z/1"]
    assert shipped_configs.sample(names, 9) == names


def test_models_with_equal_layers_have_one_key():
    model = segmentor("NoActivation", loss_decode=dict(type="CrossEntropyLoss"))
    key = shipped_configs.layers_key(model, "mmseg/a.py")
    other = segmentor("NoActivation", num_classes=19, loss_decode=dict(type="DiceLoss"))
    assert shipped_configs.layers_key(other, "mmseg/b.py") == key
    assert shipped_configs.layers_key(model, "mmdet/a.py") != key
    assert shipped_configs.layers_key(segmentor("NotCalled"), "mmseg/a.py") != key
