"""What importing acon_mm changes outside the package: each change is made once, and can be undone and made again."""

import json
import pickle
import subprocess
import sys
import weakref
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from mmcv.cnn import ConvModule
from mmengine.analysis import FlopAnalyzer
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.registry import HOOKS, MODEL_WRAPPERS, MODELS, OPTIM_WRAPPERS, Registry
from mmengine.runner import checkpoint
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn
from torch.nn.modules import module as torch_module

import acon_mm
from acon_mm import AconC, compat, patches
from acon_mm.checkpoints import CheckpointError
from acon_mm.convert.registry import original_build
from helpers.allowed_types import add_safe_globals, clear_safe_globals, get_safe_globals, kept_list

BACKBONE = dict(type="mmdet.ResNet", depth=18, act_cfg=dict(type="AconC"))


@pytest.fixture(autouse=True)
def restore():
    """The changes in force and the allow-list as it was, whatever a test did."""
    with kept_list():
        yield
        patches.uninstall()
    patches.install()


def registries(root=MODELS):
    return [root, *(found for child in root.children.values() for found in registries(child))]


# Each of these says whether one change is in force, and fails if what it sees is neither the one nor the other.


def channels_are_completed(tmp_path, model):
    module = ConvModule(3, 6, 1, act_cfg=dict(type="AconC"))
    if module.activate.num_channels is not None:
        return module(torch.randn(2, 3, 4, 4)).shape == (2, 6, 4, 4)
    with pytest.raises(RuntimeError, match=r"^AconC does not know its number of channels"):
        module(torch.randn(2, 3, 4, 4))
    return False


def act_cfg_works_everywhere(tmp_path, model):
    try:
        return any(isinstance(m, AconC) for m in MODELS.build(BACKBONE).modules())
    except TypeError as error:
        assert "unexpected keyword argument 'act_cfg'" in str(error)
        return False


def training_checkpoints_are_read(tmp_path, model):
    torch.save({"log": HistoryBuffer([1.0], [1])}, tmp_path / "log.pth")
    try:
        return isinstance(torch.load(tmp_path / "log.pth")["log"], HistoryBuffer)
    except pickle.UnpicklingError as error:
        assert "Weights only load failed" in str(error)
        return False


def mish_is_registered(tmp_path, model):
    if "Mish" not in MODELS.module_dict:
        return False
    return MODELS.build(dict(type="Mish"))(torch.tensor([1.0])).item() == pytest.approx(0.86509839)


def loads_are_checked(tmp_path, model):
    try:
        checkpoint.load_state_dict(model, {"x": torch.ones(1)})
    except CheckpointError as error:
        assert "does not fit ResNet" in str(error)
        return True
    return False


def prefixed_loads_keep_metadata(tmp_path, model):
    state = OrderedDict({"backbone.weight": torch.ones(1)})
    state._metadata = {"backbone": {"version": 7}}
    torch.save(state, tmp_path / "prefixed.pth")
    part = checkpoint._load_checkpoint_with_prefix("backbone.", str(tmp_path / "prefixed.pth"))
    assert list(part) == ["weight"]
    return getattr(part, "_metadata", None) == {"": {"version": 7}}


def refused_files_are_explained(tmp_path, model):
    """mmengine's own error is PyTorch's. The maintained fork and older PyTorch have none: they run code in the file."""
    torch.save({"code": print}, tmp_path / "code.pth")
    try:
        loaded = CheckpointLoader.load_checkpoint(str(tmp_path / "code.pth"))
    except CheckpointError as error:
        assert "print" in str(error)
        return True
    except pickle.UnpicklingError as error:
        assert "print" in str(error)
        return False
    assert hasattr(checkpoint, "_safe_torch_load") or not compat.TAKES_ALLOWED_TYPES
    assert loaded == {"code": print}
    return False


def mmseg_configs_are_found(tmp_path, model):
    """Of an mmseg that is installed under another name, as in the maintained fork."""
    try:
        return Config.fromstring("_base_ = 'mmseg::_base_/models/pspnet_r50-d8.py'", ".py").model.type is not None
    except ModuleNotFoundError as error:
        assert "mmseg-of-another-name is not installed" in str(error)
        return False


def outputs_are_recomputed(tmp_path, model):
    """What comes after the last ACON of a model."""
    conv, act = nn.Conv2d(64, 1, 1), AconC(64)
    y = act(torch.randn(1, 64, 64, 64))
    kept = weakref.ref(y)
    losses = {"loss": [conv(y).mean()]}
    del y
    BaseModel.parse_losses(model, losses)
    return kept() is None


def operations_are_counted(tmp_path, model):
    counted = FlopAnalyzer(AconC(6).eval(), torch.rand(1, 6, 4, 4)).unsupported_ops_warnings(False).total()
    assert counted in (0, 8 * 6 * 4 * 4 + 2 * 6)
    return counted > 0


CHANGES = (
    outputs_are_recomputed,
    channels_are_completed,
    act_cfg_works_everywhere,
    training_checkpoints_are_read,
    mish_is_registered,
    loads_are_checked,
    prefixed_loads_keep_metadata,
    refused_files_are_explained,
    mmseg_configs_are_found,
    operations_are_counted,
)


@pytest.mark.parametrize("in_force", CHANGES, ids=lambda change: change.__name__)
def test_each_change_both_ways(in_force, tmp_path, monkeypatch):
    """Calling either function twice is the same as calling it once."""
    model = MODELS.build(BACKBONE)
    patches.uninstall()
    monkeypatch.setitem(MODULE2PACKAGE, "mmseg", "mmseg-of-another-name")
    for _ in range(2):
        patches.install()
        patches.install()
        assert in_force(tmp_path, model)
        patches.uninstall()
        assert not in_force(tmp_path, model)
        patches.uninstall()
        assert not in_force(tmp_path, model)


def test_a_name_imported_before_does_as_mmengine_afterwards(capsys):
    model = MODELS.build(BACKBONE)
    kept = checkpoint.load_state_dict
    patches.uninstall()
    kept(model, {"x": torch.ones(1)})
    assert "unexpected key in source state_dict: x" in capsys.readouterr().out


def test_a_registry_that_came_later():
    """It takes its parent's build function, which is wrapped."""
    later = Registry("model", parent=MODELS, scope="acon_mm_test")
    try:
        later.register_module("Wide", module=nn.Conv2d)
        backbone = dict(type="Wide", in_channels=3, out_channels=4, kernel_size=1, act_cfg=dict(type="AconC"))
        with pytest.raises(ValueError, match="Conv2d has no activation that act_cfg could replace"):
            later.build(backbone)
        patches.uninstall()
        with pytest.raises(TypeError, match="unexpected keyword argument 'act_cfg'"):
            later.build(backbone)
        patches.install()
        with pytest.raises(ValueError, match="Conv2d has no activation that act_cfg could replace"):
            later.build(backbone)
        patches.uninstall()
        with pytest.raises(TypeError, match="unexpected keyword argument 'act_cfg'"):
            later.build(backbone)
    finally:
        del MODELS.children["acon_mm_test"]


def test_mish_of_others_stays():
    patches.uninstall()

    class Mish(nn.Module):
        pass

    MODELS.register_module(module=Mish)
    try:
        patches.install()
        assert MODELS.get("Mish") is Mish
        patches.uninstall()
        assert MODELS.get("Mish") is Mish
    finally:
        del MODELS.module_dict["Mish"]


def test_files_are_read_with_our_list_alone(tmp_path, monkeypatch):
    """The maintained fork's mmengine allows `getattr` while it reads, and strikes what both allow off the list then."""
    torch.save({"state_dict": {}, "log": HistoryBuffer([1.0], [1])}, tmp_path / "a.pth")
    before, during, load = set(get_safe_globals()), [], torch.load

    def watched(*args, **kwargs):
        during.append(set(get_safe_globals()))
        return load(*args, **kwargs)

    monkeypatch.setattr(torch, "load", watched)
    assert isinstance(checkpoint.CheckpointLoader.load_checkpoint(str(tmp_path / "a.pth"))["log"], HistoryBuffer)
    assert during == [before]
    assert set(get_safe_globals()) == before


@pytest.mark.slow
def test_nothing_else_is_changed():
    """In another process, which sees acon_mm imported for the first time."""
    script = Path(__file__).parent / "helpers/outside_changes.py"
    done = subprocess.run([sys.executable, "-W", "ignore", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    expected = {
        "torch.nn.modules.module._global_module_registration_hooks",
        *("mmengine:model.build_func", "mmdet:model.build_func", "mmseg:model.build_func"),
        "mmengine:model._module_dict",  # Mish
        "mmengine.runner.checkpoint.load_state_dict",
        "mmengine.runner.checkpoint._load_checkpoint_with_prefix",
        "mmengine.runner.checkpoint.CheckpointLoader.load_checkpoint",
        "mmengine.model.base_model.base_model.BaseModel.parse_losses",
        "mmengine.runner.checkpoint.load_url",
    }
    if compat.TAKES_ALLOWED_TYPES:
        expected.add("torch._weights_only_unpickler._marked_safe_globals_set")
    if hasattr(checkpoint, "_safe_torch_load"):  # the maintained fork
        expected |= {
            "mmengine.runner.checkpoint._safe_torch_load",
            "mmengine.config.utils.MODULE2PACKAGE",  # and two more names of the same dictionary
            "mmengine.config.utils.PKG2PROJECT",
            "mmengine.registry.registry.MODULE2PACKAGE",
        }
    # PyTorch counts the hooks that were ever registered, and lists operators and their libraries, ours among them.
    counted = {"torch.utils.hooks.RemovableHandle.next_id"}
    counted |= {"torch.ops.loaded_libraries", "torch.ops._dir", "torch.jit._builtins._builtin_table"}
    counted |= {"torch.library._defs", "torch.library._impls"}
    assert set(found["imported"]) - counted == expected
    assert set(found["uninstalled"]) - counted == set()
    assert set(found["installed"]) - counted == expected


def test_installed_once():
    patches.install()
    wrapped = [registry.build_func for registry in registries()]
    patches.install()
    assert [registry.build_func for registry in registries()] == wrapped
    assert not any(hasattr(original_build(build), "_acon_mm_original") for build in wrapped)
    hooks = torch_module._global_module_registration_hooks.values()
    assert sum(hook.__module__ == "acon_mm.convert.channels" for hook in hooks) == 1


@pytest.mark.parametrize("entry", [np.dtypes.Float64DType, AconC])
def test_allowed_by_others_stays_allowed(entry):
    patches.uninstall()
    clear_safe_globals()
    add_safe_globals([entry])
    patches.install()
    patches.uninstall()
    assert get_safe_globals() == [entry]


def test_registered_by_import():
    assert acon_mm.__version__
    for name in ("AconA", "AconB", "AconC", "MetaAconC", "AconFReLU"):
        assert MODELS.get(name) is getattr(acon_mm, name)
    devices = acon_mm.engine.devices
    assert MODEL_WRAPPERS.get("AnyDeviceDistributedDataParallel") is devices.AnyDeviceDistributedDataParallel
    assert OPTIM_WRAPPERS.get("BFloat16OptimWrapper") is devices.BFloat16OptimWrapper
    assert HOOKS.get("LoadCheckHook") is acon_mm.engine.LoadCheckHook
