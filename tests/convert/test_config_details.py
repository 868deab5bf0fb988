"""Around ``act_cfg`` in configs: inherited options, wrappers, threads, and names and functions of other packages."""

import subprocess
import sys
import threading

import pytest
import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import nn

import acon_mm
from acon_mm import AconC, patches

RESNET, DARKNET = dict(type="mmdet.ResNet", depth=18), dict(type="mmdet.Darknet")


@pytest.mark.parametrize("host", [RESNET, DARKNET], ids=["converted", "own act_cfg"])
@pytest.mark.parametrize(
    ("act_cfg", "message"),
    [
        (dict(type="AconC", negative_slope=0.1), "AconC does not take negative_slope"),
        (dict(type="MetaAconC", num_parameters=3, negative_slope=1), "MetaAconC does not take num_parameters, neg"),
        (dict(type="AconC", r=4), "AconC does not take r"),
        (dict(type=AconC, negative_slope=0.1), "AconC does not take negative_slope"),
        (dict(type="ReLU", init="relu"), "ReLU does not take init"),
        (dict(type="LeakyReLU", negative_slope=0.1, norm_cfg=None), "LeakyReLU does not take norm_cfg"),
    ],
)
def test_inherited_options_of_another_activation(host, act_cfg, message):
    pytest.importorskip("mmdet.models")
    with pytest.raises(TypeError, match=rf"act_cfg of {host['type'][6:]}: {message}.*_delete_=True"):
        MODELS.build(dict(host, act_cfg=act_cfg))


@pytest.mark.parametrize("more", [{}, dict(act_sites=None)])
def test_act_cfg_that_is_taken_back(more):
    pytest.importorskip("mmdet.models")
    assert str(MODELS.build(dict(RESNET, act_cfg=None, **more))) == str(MODELS.build(RESNET))


class Compiled(nn.Module):
    """As torch.compile wraps, by the class's name."""

    def __init__(self, module):
        super().__init__()
        self._orig_mod = module


Compiled.__name__ = "OptimizedModule"


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile, Compiled])
def test_wrapped_models_are_refused(wrap, inside):
    block = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    model = nn.Sequential(wrap(block)) if inside else wrap(block)
    with pytest.raises(ValueError, match=r"is wrapped by .*: convert the model before it is wrapped"):
        acon_mm.convert_activations(model, dict(type="AconC"), "all")
    assert type(block[1]) is nn.ReLU


@pytest.mark.parametrize("name", ["DistributedDataParallel", "MMDistributedDataParallel"])
def test_distributed_models_are_refused(name, tmp_path):
    import mmengine.model

    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        wrapper = getattr(mmengine.model, name, nn.parallel.DistributedDataParallel)
        model = wrapper(module=nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()))
        with pytest.raises(ValueError, match=f"it is wrapped by {name}, which would not know the new parameters"):
            acon_mm.convert_activations(model, dict(type="AconC"), "all")
    finally:
        torch.distributed.destroy_process_group()


def test_builds_of_two_threads_are_both_checked():
    """One thread builds in the middle of the build of another."""
    started, go_on = threading.Event(), threading.Event()

    class Slow(BaseModule):
        def __init__(self):
            super().__init__()
            started.set()
            assert go_on.wait(20)

    class Unknown(BaseModule):
        def __init__(self, act_cfg):
            super().__init__()
            self.layers = nn.Sequential(nn.PixelShuffle(2), MODELS.build(act_cfg))

    for cls in (Slow, Unknown):
        MODELS.register_module(module=cls)
    thread = threading.Thread(target=MODELS.build, args=(dict(type="Slow"),))
    try:
        thread.start()
        assert started.wait(20)
        with pytest.raises(ValueError, match=r"layers\.1 of Unknown needs its number of channels"):
            MODELS.build(dict(type="Unknown", act_cfg=dict(type="AconC")))
    finally:
        go_on.set()
        thread.join()
        for cls in (Slow, Unknown):
            MODELS.module_dict.pop(cls.__name__)


def test_a_function_that_others_wrapped_around_ours_stays():
    pytest.importorskip("mmdet.models")
    ours, calls = MODELS.build_func, []

    def theirs(cfg, *args, **kwargs):
        calls.append(cfg["type"])
        return ours(cfg, *args, **kwargs)

    cfg = dict(type="ConvModule", in_channels=3, out_channels=4, kernel_size=1, act_cfg=dict(type="AconC"))
    try:
        MODELS.build_func = theirs
        patches.uninstall()
        assert MODELS.build_func is theirs
        MODELS.build(dict(type="ReLU"))
        with pytest.raises(TypeError, match="act_sites"):  # ours passes everything on
            MODELS.build(dict(cfg, act_sites="all"))
        patches.install()
        assert MODELS.build(dict(cfg, act_sites="all")).activate.num_channels == 4
        assert calls == ["ReLU", "ConvModule", "ConvModule", "AconC"]
    finally:
        patches.uninstall()
        MODELS.build_func = vars(ours)["_acon_mm_original"]
        patches.install()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("registry", "name"),
    [("MODELS", "MetaAconC"), ("HOOKS", "LoadCheckHook"), ("OPTIM_WRAPPERS", "BFloat16OptimWrapper")],
)
def test_a_name_that_another_package_has_registered_stays_theirs(registry, name):
    code = (
        f"from mmengine.registry import {registry} as registry\n"
        f"theirs = registry.register_module(name={name!r})(type({name!r}, (), {{}}))\n"
        "import acon_mm\n"
        f"assert registry.get({name!r}) is theirs\n"
        f"assert registry.get('acon_mm.{name}').__module__.startswith('acon_mm')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"Write type='acon_mm.{name}' for that of acon_mm" in done.stdout + done.stderr


def test_our_scope():
    cfg = dict(type="ConvModule", in_channels=3, out_channels=4, kernel_size=1, act_cfg=dict(type="acon_mm.AconC"))
    assert type(MODELS.build(cfg).activate) is AconC
