"""The twin with ReLU, and how many pictures fit."""

import pytest
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import MODELS

from acon_mm import AconC
from acon_mm.analysis.memory import Memory
from acon_mm.analysis.memory.step import TrainingStep
from acon_mm.analysis.memory.twins import with_relu
from acon_mm.errors import UserError


def test_each_acon_of_a_config_becomes_relu():
    act_cfg = dict(type="MetaAconC", r=8, memory="least")
    model = dict(
        backbone=dict(type="ResNet", act_cfg=act_cfg, act_sites="all"),
        heads=[dict(act_cfg=dict(type="mmdet.AconC")), dict(cfgs=(dict(act_cfg=dict(type=AconC)),))],
        neck=dict(act_cfg=dict(type="SiLU"), other=None),
    )
    relu = dict(type="ReLU")
    assert with_relu(model) == dict(
        backbone=dict(type="ResNet", act_cfg=relu, act_sites="all"),
        heads=[dict(act_cfg=relu), dict(cfgs=(dict(act_cfg=relu),))],
        neck=model["neck"],
    )
    assert model["backbone"]["act_cfg"] is act_cfg and act_cfg["r"] == 8


def test_an_acon_of_somebody_else():
    class OwnAcon(AconC):
        pass

    with MODELS.switch_scope_and_registry("mmdet") as models:
        models.register_module(module=OwnAcon)
        try:
            assert with_relu(dict(act_cfg=dict(type="OwnAcon"))) == dict(act_cfg=dict(type="ReLU"))
        finally:
            del models.module_dict["OwnAcon"]


def test_a_config_without_acon():
    with pytest.raises(UserError, match="no ACON to compare with ReLU: add one"):
        with_relu(dict(backbone=dict(type="ResNet", act_cfg=dict(type="ReLU"))))


def memory(kept: tuple[int, int], peaks: tuple[int, int]) -> Memory:
    return Memory("Net", False, 2, layers=[], modules=[], standing=100, kept=kept, peaks=peaks)


def test_how_many_pictures_fit():
    found = memory(kept=(20, 40), peaks=(130, 154))  # 106 and 12 for each picture
    assert found.per_picture == 12
    assert [found.pictures(limit) for limit in (50, 106, 117, 118, 226)] == [0, 0, 0, 1, 10]


def test_with_many_pictures_the_peak_is_at_least_what_is_kept():
    found = memory(kept=(20, 40), peaks=(150, 154))  # 146 and 2 for each picture; what is kept is 100 and 10
    assert found.per_picture == 10
    assert [found.pictures(limit) for limit in (146, 150, 154, 1100)] == [0, 2, 4, 100]
    assert memory(kept=(20, 40), peaks=(150, 150)).pictures(1100) == 100


def test_a_model_without_random_data():
    class Video(BaseModel):
        def forward(self, inputs, data_samples=None, mode="tensor"):
            return {}

    with pytest.raises(UserError, match="Video does not learn from single pictures with labels"):
        TrainingStep(Video(), Config(), (64, 64))
