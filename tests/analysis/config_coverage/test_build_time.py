"""The time that a model takes to build."""

import re

import pytest

from acon_mm.analysis.config_coverage.build_time import build_times


@pytest.mark.slow
def test_build_times_convert_the_backbone_and_the_heads():
    """A ResNet-18 has 17 activations, a RetinaHead 8. (The times depend on the machine.)"""
    text = build_times("mmdet/retinanet/retinanet_r18_fpn_1x_coco.py", dict(type="AconC"), rounds=1)
    assert re.fullmatch(r"[1-9]\d* ms unchanged, [1-9]\d* ms with 25 activations converted: [+-][\d.]+ %", text)
