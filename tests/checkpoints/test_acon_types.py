"""Types of ACON by the names of parameters, and yolov5's names."""

import pytest
import torch
from torch import nn

from acon_mm import AconA, AconB, AconC, AconFReLU, MetaAconC
from acon_mm.checkpoints.acon_types import acon_type_from_names, acon_types_by_place, names_below, rename_yolov5_keys


@pytest.mark.parametrize("acon", [AconA(4), AconB(4), AconC(4), AconFReLU(4), MetaAconC(4)])
def test_every_type_is_known_by_its_names(acon):
    assert acon_type_from_names(acon.state_dict()) == type(acon).__name__


def test_names_of_no_type():
    assert acon_type_from_names(MetaAconC(4, generator="layer").state_dict()).startswith("MetaAconC without fc1")
    assert acon_type_from_names(nn.BatchNorm2d(4).state_dict()) is None


def test_types_by_place():
    model = nn.ModuleDict({"a": AconC(4), "b": nn.Sequential(MetaAconC(4), nn.Linear(2, 2)), "fc": nn.Linear(2, 2)})
    assert acon_types_by_place(model.state_dict()) == {"a": "AconC", "b.0": "MetaAconC"}
    assert acon_types_by_place(AconC(4).state_dict()) == {"": "AconC"}
    assert acon_types_by_place({"gamma.beta": 0, "head.fc1.weight": 0}) == {}  # one name is not enough


def test_names_below():
    keys = ["act.p1", "act.bn1.weight", "act1.p1", "act"]
    assert names_below(keys, "act") == {"p1", "bn1.weight"} and names_below(keys, "") == set(keys)


def test_yolov5_keys_are_renamed_where_the_model_has_an_acon():
    class Block(nn.Module):
        def __init__(self, name: str):
            super().__init__()
            self.add_module(name, AconC(4))

    model = nn.ModuleDict({"a": Block("activate"), "b": Block("act2"), "c": Block("activate")})
    state = {f"{place}.act.p1": torch.ones(4) for place in "abc"} | {"c.activate.p1": torch.zeros(4)}
    assert list(rename_yolov5_keys(state, model)) == ["a.activate.p1", "b.act.p1", "c.act.p1", "c.activate.p1"]
    assert list(rename_yolov5_keys({"act.p1": 0}, Block("activate"))) == ["activate.p1"]
