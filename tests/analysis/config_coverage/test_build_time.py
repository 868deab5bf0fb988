"""The time that a model takes to build."""

import pytest

from acon_mm.analysis.config_coverage.build_time import build_times


@pytest.mark.slow
def test_build_times_convert_the_backbone_and_the_heads():
    """A ResNet-18 has 17 activations, a RetinaHead 8. (The times depend on the machine.)"""
    times = build_times("mmdet/retinanet/retinanet_r18_fpn_1x_coco.py", dict(type="AconC"), rounds=1)
    assert times.sites == 25
    assert min(times.unchanged, times.converted) > 0
    assert str(times).endswith(f"with 25 activations converted: {100 * times.extra:+.1f} %")
