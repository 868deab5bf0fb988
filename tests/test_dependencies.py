"""The check of the dependencies, which runs before anything else of acon_mm is imported."""

from importlib import import_module

import pytest
import torch

from acon_mm import dependencies


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
    text = rf"^acon_mm: {package} is installed but cannot be imported \({error}\): pip install"
    with pytest.raises(ImportError, match=text):
        dependencies.check()


@pytest.mark.parametrize("version", ["1.13.1+cpu", "0.4.1"])
def test_old_torch(version, monkeypatch):
    monkeypatch.setattr(torch, "__version__", version)
    with pytest.raises(ImportError, match=r"needs torch >= 2\.0, and [\d.+cpu]+ is installed"):
        dependencies.check()


@pytest.mark.parametrize("version", ["2.0.0", "2.6.0", "2.13.0+cpu", "2.10.0a0+gitabc", "3.0.0"])
def test_new_torch(version, monkeypatch):
    monkeypatch.setattr(torch, "__version__", version)
    dependencies.check()
