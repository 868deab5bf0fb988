"""Modules whose class is patched: names, copies, pickles, and the activation that several sites share."""

import copy
import pickle

import pytest
import torch
from torch import nn

from helpers.five_models import BASES, batch, build, every_part


@pytest.mark.parametrize("name", BASES)
def test_class_names_and_isinstance_survive(name):
    original = build(name, 50)
    model = build(name, 50, **every_part(name, act_cfg=dict(type="AconC"), act_sites="all"))
    inner = {path: module for path, module in original.named_modules() if not isinstance(module, nn.ReLU)}
    for path, module in inner.items():
        twin = model.get_submodule(path)
        assert isinstance(twin, type(module))
        assert type(twin).__name__ == type(module).__name__


@pytest.mark.parametrize("name", BASES)
def test_copies_and_pickles_compute_the_same(name):
    model = build(name, **every_part(name, act_cfg=dict(type="AconC"), act_sites="all")).eval()
    inputs, samples = batch(name, count=1)
    expected = model(inputs, samples, mode="tensor")
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(twin.backbone.layer1[0]) is type(model.backbone.layer1[0])
        torch.testing.assert_close(twin(inputs, samples, mode="tensor"), expected, rtol=0, atol=0)


def test_a_site_list_keeps_the_other_sites_working():
    """Sites that are not chosen share the block's ReLU as before. It is removed when no site uses it."""
    partly = build("retinanet", 50, backbone=dict(act_cfg=dict(type="AconC"))).backbone.layer1[0]
    assert partly.act1 is partly.act3 is partly.relu
    wholly = build("retinanet", 50, backbone=dict(act_cfg=dict(type="AconC"), act_sites="all")).backbone.layer1[0]
    assert not hasattr(wholly, "relu")
