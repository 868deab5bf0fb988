"""`.dev_scripts/install_mmcv.py`, with which `make setup` installs mmcv."""

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers.project import project

ROOT = Path(__file__).parents[1]
PRINT_STEPS = """
import sys
print("building 'mmcv._ext' extension")
print("[1/3] c++ -MMD -MF a.o.d -O3 -c /tmp/csrc/a.cpp -o a.o", flush=True)
print("[3/3] c++ -MMD -MF b.o.d -O3 -c /tmp/csrc/b.cpp -o b.o", flush=True)
print("the error")
raise SystemExit(sys.argv[-1] == "fails")
"""


@pytest.fixture
def script(monkeypatch):
    spec = importlib.util.spec_from_file_location("install_mmcv", ROOT / ".dev_scripts/install_mmcv.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("stack", ["openmmlab", "onedl", "oldest"])
def test_the_version_is_that_of_the_extra(script, stack):
    (pinned,) = (each for each in project()["optional-dependencies"][stack] if "mmcv" in each)
    assert str(script.requirement(stack)) == pinned


def test_an_unknown_stack_is_an_error(script):
    with pytest.raises(SystemExit, match="no extra none of acon_mm has mmcv"):
        script.requirement("none")


def test_a_wheel_in_a_folder_that_the_user_names_is_taken(script, tmp_path, monkeypatch, capsys):
    with zipfile.ZipFile(tmp_path / "mmcv-99.0-py3-none-any.whl", "w") as wheel:
        info = "mmcv-99.0.dist-info"
        wheel.writestr("mmcv/__init__.py", "")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: mmcv\nVersion: 99.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    script.install(script.Requirement("mmcv==99.0"), "--no-index", "--target", str(tmp_path / "site"))
    assert (tmp_path / "site/mmcv/__init__.py").exists()
    assert "Compiling" not in capsys.readouterr().out


def test_a_compilation_shows_each_file_and_a_failure_its_output(script, monkeypatch, capsys):
    monkeypatch.setattr(script, "PIP_INSTALL", [sys.executable, "-c", PRINT_STEPS])
    monkeypatch.setattr(script, "precompile", lambda header, environment: None)
    script.install("mmcv")
    _, first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("[1/3] a.cpp, about ") and first.endswith(" minutes left")
    assert last == "[3/3] b.cpp, about 0.0 minutes left"
    with pytest.raises(SystemExit, match="pip could not install fails"):
        script.install("fails")
    assert "the error" in capsys.readouterr().err


@pytest.mark.parametrize(("standard", "flags"), [("17", "-std=c++17"), ("20", "-std=c++17 -std=c++20")])
def test_mmcv_gets_the_standard_that_pytorch_needs(script, standard, flags, tmp_path, monkeypatch):
    header = tmp_path / "torch/include/torch/csrc/api/include/torch/all.h"
    header.parent.mkdir(parents=True)
    header.write_text(f"#error C++{standard} or later compatible compiler is required to use PyTorch.\n")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(origin=tmp_path / name / "init"))
    monkeypatch.setenv("CXX", "echo")
    done = subprocess.run([script.compiler_for_torch(tmp_path), "-std=c++17"], capture_output=True, text=True)
    assert done.stdout.strip() == flags
