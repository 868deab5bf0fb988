"""The package as users install it: the sdist, the wheel built from it, and the wheel installed outside the checkout."""

import os
import shutil
import subprocess
import sys
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from acon_mm.datasets.pictures import PINNED
from acon_mm.ops import cpu as compiled
from acon_mm.version import __version__

ROOT = Path(__file__).parents[1]
FILES = ("LICENSE", "MANIFEST.in", "README.md", "acon_mm_cli.py", "pyproject.toml", "setup.py")
SOURCES = (*FILES, "acon_mm", "configs", "tools")
CONFIG = "detection/retinanet_r18-metaaconc_fpn_6e_digits.py"

BUILD_SHIPPED_CONFIG = """
import sys
import acon_mm
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
cfg = Config.fromfile(sys.argv[1])
init_default_scope(cfg.default_scope)
model = MODELS.build(cfg.model)
print(acon_mm.__file__, sum(isinstance(module, acon_mm.MetaAconC) for module in model.modules()))
"""


def run(*command: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def files(directory: Path) -> set[str]:
    found = (path.relative_to(directory) for path in directory.rglob("*") if path.is_file())
    return {path.as_posix() for path in found if "__pycache__" not in path.parts and path.suffix != ".so"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the wheel installed, which is built from the sdist of a copy of the checkout."""
    tmp_path = tmp_path_factory.mktemp("package")
    source, dist = tmp_path / "source", tmp_path / "dist"
    source.mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    # Without the kernels, which take half a minute to compile. `make setup` compiles them, and tests/ops runs them.
    run("-m", "build", "--no-isolation", "--outdir", dist, source, cwd=tmp_path, ACON_MM_KERNELS="0")
    (wheel,) = dist.glob("*.whl")
    run("-m", "pip", "install", "--no-deps", "--no-index", "--target", tmp_path / "site", wheel, cwd=tmp_path)
    return tmp_path / "site"


@pytest.fixture(scope="module")
def metadata(site: Path) -> PathDistribution:
    (info,) = site.glob("*.dist-info")
    return PathDistribution(info)


@pytest.mark.slow
def test_wheel_holds_the_package_its_configs_and_tools(site):
    installed = files(site / "acon_mm")
    package = {name for name in installed if not name.startswith(".mim/")}
    assert package == files(ROOT / "acon_mm")
    shipped = {f"{part}/{name}" for part in ("configs", "tools") for name in files(ROOT / part)}
    assert {name.removeprefix(".mim/") for name in installed - package} == shipped
    assert {"tools/train.py", "tools/model_converters/convert_checkpoint.py", f"configs/{CONFIG}"} <= shipped
    assert {name.split("/")[1] for name in shipped if name.count("/") > 1 and name.startswith("tools/")} == {
        "analysis_tools",
        "deployment",
        "model_converters",
    }


@pytest.mark.slow
def test_type_checkers_may_use_the_annotations(site):
    assert (site / "acon_mm/py.typed").exists()


@pytest.mark.slow
def test_installed_wheel_builds_a_shipped_config(site, tmp_path):
    config = site / "acon_mm/.mim/configs" / CONFIG
    done = run("-c", BUILD_SHIPPED_CONFIG, config, cwd=tmp_path, PYTHONPATH=str(site))
    place, activations = done.stdout.splitlines()[-1].rsplit(maxsplit=1)
    assert Path(place).is_relative_to(site)
    assert int(activations) > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "name"),
    [(["acon_mm/.mim/tools/train.py"], "train.py"), (["bin/acon-mm", "test"], "acon-mm test")],
    ids=["tool", "command"],
)
def test_installed_tools_start(command, name, site, tmp_path):
    done = run(site / command[0], *command[1:], "--help", cwd=tmp_path, PYTHONPATH=str(site))
    assert f"usage: {name} " in done.stdout


@pytest.mark.slow
def test_wheel_names_version_and_licence(metadata):
    assert metadata.version == __version__
    assert metadata.metadata["License-Expression"] == "Apache-2.0"
    assert metadata.read_text("licenses/LICENSE") == (ROOT / "LICENSE").read_text()


@pytest.mark.slow
def test_extras_pin_what_results_depend_on(metadata):
    pins: dict[str, dict[str, str]] = {}
    for line in metadata.requires:
        requirement = Requirement(line)
        for extra in metadata.metadata.get_all("Provides-Extra"):
            if requirement.marker and requirement.marker.evaluate({"extra": extra}):
                pins.setdefault(extra, {})[requirement.name] = str(requirement.specifier)
    assert set(pins) == {
        "bootstrap",
        "openmmlab",
        "onedl",
        "coverage",
        "sample",
        "tests",
        "triton",
        "bootstrap-newest",
        "oldest",
        *(f"{name}-oldest" for name in ("bootstrap", "sample", "tests")),
    }
    assert pins["sample"] == {name: f"=={version}" for name, version in PINNED.items()}
    loose = [
        f"{stack}: {name}{specifier}"
        for stack in ("openmmlab", "onedl", "oldest")
        for name, specifier in pins[stack].items()
        if name not in ("ftfy", "regex") and not specifier.startswith("==")
    ]
    assert not loose
    assert all(pins[name]["torch"].startswith("==") for name in pins if name.startswith("bootstrap"))


# As pip does: the packages of the environment, PyTorch among them, are not on the path of a build.
ISOLATED_SETUP = """
import runpy, setuptools, site, sys
sys.path = [path for path in sys.path if path not in site.getsitepackages()]
runpy.run_path("setup.py", run_name="__main__")
"""


def build_without_compiler(directory: Path, **environment: str) -> subprocess.CompletedProcess:
    folders = ["--build-lib", directory / "lib", "--build-temp", directory / "temp"]
    return subprocess.run(
        [sys.executable, "-c", ISOLATED_SETUP, "build_ext", *folders],
        cwd=ROOT,
        env=os.environ | {"CC": "no-such-compiler", "CXX": "no-such-compiler"} | environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_build_without_a_compiler_goes_on_without_kernels(tmp_path):
    done = build_without_compiler(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "no-such-compiler" in done.stderr
    assert not list(tmp_path.rglob("*.so"))


@pytest.mark.slow
def test_build_without_a_compiler_fails_where_kernels_are_required(tmp_path):
    assert build_without_compiler(tmp_path, ACON_MM_KERNELS="1").returncode != 0
    refused = build_without_compiler(tmp_path, ACON_MM_KERNELS="yes")
    assert refused.returncode != 0 and "ACON_MM_KERNELS must be 0 (none), 1 (required) or unset" in refused.stderr


def test_kernels_are_here():
    """Without them, tests in tests/ops and tests/layers would be skipped, and nobody would notice."""
    assert compiled.problem() is None or os.environ.get("ACON_MM_KERNELS") == "0"
