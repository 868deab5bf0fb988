"""The choice among the implementations, and the warning where the compiled kernels are missing."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import acon_mm
from acon_mm.ops import backends
from helpers.kernels import NEEDS_COMPILED

TRAIN = """
import torch
from acon_mm import AconC, MetaAconC, ops
torch.manual_seed(0)
x, grads = torch.randn(2, 8, 6, 5, requires_grad=True), {}
for module in (MetaAconC(8), AconC(8)):
    module(x).square().sum().backward()
    grads |= {name: t.grad.double().abs().sum().item() for name, t in module.named_parameters()}
print(ops.backend_for(x))
print(grads | {"x": x.grad.double().abs().sum().item()})
"""
WARNING = (
    "activations on the CPU run in plain PyTorch, which is slower, because the kernels were not compiled for torch"
)


def start(code: str, **environment: str) -> subprocess.Popen:
    """A fresh process, in a directory where it finds nothing to import."""
    clean = {key: value for key, value in os.environ.items() if key not in ("ACON_MM_BACKEND", "TRITON_INTERPRET")}
    pipe = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=os.sep)
    return subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], env=clean | environment, **pipe)


@pytest.mark.slow
@NEEDS_COMPILED
def test_choices_of_the_environment(tmp_path):
    """Every choice trains alike. One warning where the compiled kernels are missing, none where that is chosen."""
    shutil.copytree(Path(acon_mm.__file__).parent, tmp_path / "acon_mm", ignore=shutil.ignore_patterns("*.so", "*.pyd"))
    without_library = {"PYTHONPATH": str(tmp_path)}
    environments = {
        "default": {},
        "triton": {"ACON_MM_BACKEND": "triton", "TRITON_INTERPRET": "1"},
        "missing": without_library,
        "reference": without_library | {"ACON_MM_BACKEND": "reference"},
    }
    processes = {name: start(TRAIN, **environment) for name, environment in environments.items()}
    backends, grads, logs = {}, {}, {}
    for name, process in processes.items():
        out, log = process.communicate()
        assert process.returncode == 0, log
        backends[name], gradients = out.splitlines()[-2:]
        grads[name], logs[name] = ast.literal_eval(gradients), log + out
    assert backends == {name: name for name in environments} | {"default": "compiled", "missing": "reference"}
    for name in environments:
        assert grads[name] == pytest.approx(grads["reference"], rel=1e-4, abs=1e-4), name
        assert logs[name].count(WARNING) == (name == "missing"), logs[name]
    assert "ACON_MM_KERNELS=1 pip install" in logs["missing"] and "ACON_MM_BACKEND=reference" in logs["missing"]


def test_warning_only_for_tensors_that_the_kernels_would_take(monkeypatch):
    warnings = []
    monkeypatch.setattr(backends, "_log_missing_kernels", lambda: warnings.append(1))
    forward = backends._warned(lambda *inputs: None)
    one = torch.ones(1)
    for tensors in ([one.to("meta"), one], [one.long(), one], [one, one.double()]):
        forward(*tensors)
        assert not warnings
    forward(one, one)
    assert warnings == [1]


@pytest.mark.slow
def test_a_choice_that_is_not_possible():
    texts = {
        "cuda": "must be one of compiled, triton, reference",
        "triton": "is not possible: there is no CUDA device",
    }
    fixed = dict(TRITON_INTERPRET="0", CUDA_VISIBLE_DEVICES="")
    processes = {name: start("import acon_mm", ACON_MM_BACKEND=name, **fixed) for name in texts}
    for name, process in processes.items():
        _, log = process.communicate()
        assert process.returncode and texts[name] in log
