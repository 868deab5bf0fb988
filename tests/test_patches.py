"""What importing acon_mm changes elsewhere, that it can be undone, and the check of the dependencies before it."""

import subprocess
import sys
from importlib import import_module

import numpy as np
import pytest
import torch
from mmcv.cnn import ConvModule
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.logging import HistoryBuffer
from mmengine.registry import MODELS
from mmengine.runner import checkpoint
from torch import nn
from torch.nn.modules import module as torch_module
from torch.serialization import add_safe_globals, clear_safe_globals, get_safe_globals

import acon_mm
from acon_mm import AconC, dependencies, patches
from acon_mm.checkpoints import CheckpointError


@pytest.fixture(autouse=True)
def restore():
    """Effects applied and the allow-list as it was, whatever a test did."""
    before = get_safe_globals()
    yield
    patches.uninstall()
    clear_safe_globals()
    add_safe_globals(before)
    patches.install()


def registries(root=MODELS):
    return [root, *(found for child in root.children.values() for found in registries(child))]


def conv_module():
    return ConvModule(3, 6, 1, act_cfg=dict(type="AconC"))


def test_hook_both_ways():
    patches.uninstall()
    module = conv_module()
    assert module.activate.num_channels is None
    with pytest.raises(
        RuntimeError, match=r"^AconC does not know its number of channels, since no layer before it tells it"
    ):
        module(torch.randn(2, 3, 4, 4))
    patches.install()
    assert conv_module().activate.num_channels == 6


def test_act_cfg_both_ways():
    backbone = dict(type="mmdet.ResNet", depth=18, act_cfg=dict(type="AconC"))
    assert any(isinstance(m, AconC) for m in MODELS.build(backbone).modules())
    patches.uninstall()
    with pytest.raises(TypeError, match="unexpected keyword argument 'act_cfg'"):
        MODELS.build(backbone)


def test_mish_both_ways():
    assert MODELS.build(dict(type="Mish"))(torch.tensor([1.0])).item() == pytest.approx(0.86509839)
    patches.uninstall()
    assert "Mish" not in MODELS.module_dict


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


def test_training_checkpoints_both_ways(tmp_path):
    torch.save({"log": HistoryBuffer([1.0], [1])}, tmp_path / "a.pth")
    assert isinstance(torch.load(tmp_path / "a.pth")["log"], HistoryBuffer)
    patches.uninstall()
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(tmp_path / "a.pth")


def test_checked_loads_both_ways(capsys):
    model, state = MODELS.build(dict(type="mmdet.ResNet", depth=18, act_cfg=dict(type="AconC"))), {"x": torch.ones(1)}
    with pytest.raises(CheckpointError, match="nothing in it fits"):
        checkpoint.load_state_dict(model, state)
    kept = checkpoint.load_state_dict
    patches.uninstall()
    for load in (kept, checkpoint.load_state_dict):  # who imported ours has mmengine's behaviour back, too
        load(model, state)
        assert "unexpected key in source state_dict: x" in capsys.readouterr().out


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


def test_mmseg_configs_both_ways(monkeypatch):
    """Of an mmseg that is installed under another name, as in the maintained fork."""

    def base():
        return Config.fromstring("_base_ = 'mmseg::_base_/models/pspnet_r50-d8.py'", ".py").model.type

    patches.uninstall()
    monkeypatch.setitem(MODULE2PACKAGE, "mmseg", "mmseg-of-another-name")
    with pytest.raises(ModuleNotFoundError, match="mmseg-of-another-name is not installed"):
        base()
    patches.install()
    assert base() == "EncoderDecoder"
    patches.uninstall()
    assert MODULE2PACKAGE["mmseg"] == "mmseg-of-another-name"


def test_undone_completely():
    """Another process, since this one has imported acon_mm before anyone could look."""
    script = """
import torch, mmcv.cnn, mmdet.registry, mmseg.registry
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import MODELS
from mmengine.runner import checkpoint
from torch.nn.modules import module

def registries(root=MODELS):
    return [root, *(found for child in root.children.values() for found in registries(child))]

def outside():
    builders = {r.scope + r.name: r.build_func for r in registries()}
    hooks = dict(module._global_module_registration_hooks)
    loaders = (
        checkpoint.load_state_dict,
        checkpoint._load_checkpoint_with_prefix,
        vars(checkpoint.CheckpointLoader)["load_checkpoint"],
        getattr(checkpoint, "_safe_torch_load", None),
        dict(MODULE2PACKAGE),
    )
    return builders, hooks, set(torch.serialization.get_safe_globals()), "Mish" in MODELS.module_dict, loaders

before = outside()
import acon_mm
for _ in range(2):
    assert all(new != old for new, old in zip(outside(), before)), outside()
    assert all(r.build_func is not before[0][r.scope + r.name] for r in registries())
    acon_mm.patches.uninstall()
    acon_mm.patches.uninstall()
    assert outside() == before, outside()
    acon_mm.patches.install()
    acon_mm.patches.install()
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_installed_once():
    patches.install()
    wrapped = [registry.build_func for registry in registries()]
    patches.install()
    assert [registry.build_func for registry in registries()] == wrapped
    assert not any(hasattr(build._acon_mm_wraps, "_acon_mm_wraps") for build in wrapped)
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


# The dependencies


def importing(monkeypatch, replaced):
    """Let `dependencies` import modules, except those in `replaced`: an exception to raise, or a module to get."""

    def fake(name):
        value = replaced.get(name)
        if isinstance(value, Exception):
            raise value
        return value or import_module(name)

    monkeypatch.setattr(dependencies, "import_module", fake)


def missing(name):
    return ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.mark.parametrize("package", ["torch", "mmengine", "mmcv"])
def test_missing_package(package, monkeypatch):
    importing(monkeypatch, {package: missing(package)})
    text = rf"^acon_mm needs {package}, which is not installed: pip install 'acon_mm\[openmmlab\]'"
    with pytest.raises(ImportError, match=text):
        dependencies.check()


def test_missing_optional_packages(monkeypatch):
    importing(monkeypatch, {"mmdet": missing("mmdet"), "mmseg": missing("mmseg")})
    dependencies.check()


@pytest.mark.parametrize(("package", "needed"), [("mmcv", "pkg_resources"), ("mmseg", "ftfy")])
def test_missing_requirement_of_a_package(package, needed, monkeypatch):
    importing(monkeypatch, {package: missing(needed)})
    with pytest.raises(ImportError, match=rf"^acon_mm: {package} needs {needed}, which is not installed: pip install"):
        dependencies.check()


@pytest.mark.parametrize(
    ("package", "error"),
    [
        ("mmdet", AssertionError("MMCV==2.2.0 is used but incompatible")),
        ("mmcv", ImportError("libtorch.so: no such file")),
    ],
)
def test_package_that_does_not_import(package, error, monkeypatch):
    importing(monkeypatch, {package: error})
    text = rf"^acon_mm: {package} is installed but does not import \({error}\): pip install"
    with pytest.raises(ImportError, match=text):
        dependencies.check()


@pytest.mark.parametrize("version", ["2.5.1+cpu", "1.13.0"])
def test_old_torch(version, monkeypatch):
    monkeypatch.setattr(torch, "__version__", version)
    with pytest.raises(
        ImportError, match=r"needs torch >= 2\.6 to read checkpoints safely, and [\d.+cpu]+ is installed"
    ):
        dependencies.check()


@pytest.mark.parametrize("version", ["2.6.0", "2.13.0+cpu", "2.10.0a0+gitabc", "3.0.0"])
def test_new_torch(version, monkeypatch):
    monkeypatch.setattr(torch, "__version__", version)
    dependencies.check()


def test_registered_by_import():
    assert acon_mm.__version__
    for name in ("AconA", "AconB", "AconC", "MetaAconC", "AconFReLU"):
        assert MODELS.get(name) is getattr(acon_mm, name)
