"""Modules that no table names: random ones, converted and compared with what runs."""

import copy
import importlib.util
import sys

import pytest
import torch

import acon_mm
from acon_mm.convert.sites import find_sites
from helpers.act_trace import ActivationTrace, acons
from helpers.own_kinds import convert_to_own_kinds
from helpers.random_modules import random_modules

COUNT = 200


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """200 random networks, each with its input."""
    text, names = random_modules(seed=0, count=COUNT)
    path = tmp_path_factory.mktemp("generated") / "random_networks.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location("random_networks", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["random_networks"] = module
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    yield [(getattr(module, name)().eval(), torch.randn(2, channels, 8, 8)) for name, channels in names]
    del sys.modules["random_networks"]


@pytest.mark.slow
def test_every_activation_of_random_networks(networks):
    """Nothing but ACONs activates, each has its channels (forward checks them), and each that runs is in the report."""
    converted = 0
    for original, x in networks:
        where = type(original).__name__
        model = copy.deepcopy(original)
        if not find_sites(model)[0]:
            with ActivationTrace(model) as trace:
                model(x.clone())
            assert trace.calls == set(), where
            continue
        report = acon_mm.convert_activations(model, dict(type="AconC", init="paper"), "all")
        with ActivationTrace(model) as trace:
            model(x.clone())
        assert trace.calls == set(), where
        there = [n for n, m in model.named_modules(remove_duplicate=False) if isinstance(m, acon_mm.AconC)]
        assert sorted(report.converted) == sorted(there), where
        assert trace.acons <= set(acons(model)), where
        assert set(report.kept.values()) <= {"never called"}, (where, report.kept)
        assert model.state_dict().keys() >= original.state_dict().keys(), where
        converted += len(there)
    assert converted > 4 * COUNT


@pytest.mark.slow
def test_random_networks_with_their_own_activations_again(networks):
    for original, x in networks:
        model = convert_to_own_kinds(copy.deepcopy(original))
        assert model.state_dict().keys() == original.state_dict().keys()
        torch.testing.assert_close(model(x.clone()), original(x.clone()), rtol=0, atol=0, msg=type(model).__name__)
