"""A part of the package imports only parts below it."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "acon_mm"
#: from the bottom to the top; parts on the same line do not import each other
ORDER = (
    ("errors", "version", "dependencies", "registering", "compat"),
    ("files",),
    ("ops",),
    ("layers",),
    ("convert", "checkpoints", "learned"),
    ("engine", "patches"),
    ("__init__",),
    ("datasets", "analysis"),
)
LEVELS = {part: level for level, parts in enumerate(ORDER) for part in parts}


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """The parts of the package that a file imports, also inside of functions."""
    here = ("acon_mm", *path.relative_to(PACKAGE).parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) + 1 - node.level] if node.level else ()
            base = [*base, *(node.module or "").split(".")] if node.module else list(base)
            names = [[*base, alias.name] for alias in node.names]
        else:
            continue
        found |= {name[1] for name in names if name[0] == "acon_mm" and len(name) > 1 and name[1] in LEVELS}
        found |= {"__init__" for name in names if name[0] == "acon_mm" and (len(name) == 1 or name[1] not in LEVELS)}
    return found - {part_of(path)}


def test_every_part_has_a_place():
    parts = {part_of(path) for path in PACKAGE.rglob("*.py")}
    assert parts == set(LEVELS)


@pytest.mark.parametrize("part", LEVELS)
def test_imports_run_down(part):
    for path in PACKAGE.rglob("*.py"):
        if part_of(path) == part:
            up = {name for name in imports(path) if LEVELS[name] >= LEVELS[part]}
            assert not up, f"{path.relative_to(PACKAGE)} imports {up}"


def test_the_reader_of_imports_sees_all_ways_to_write_one(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path)
    (tmp_path / "ops").mkdir()
    lines = {
        "import acon_mm.convert.sites": {"convert"},
        "from acon_mm import engine, AconC": {"engine", "__init__"},
        "from acon_mm.analysis import benchmark": {"analysis"},
        "from .. import patches": {"patches"},
        "from ..layers.acon import AconA": {"layers"},
        "def f():\n    from ..checkpoints import reading": {"checkpoints"},
        "from . import reference": set(),
        "from .layers import x": set(),
        "import torch": set(),
    }
    for line, wanted in lines.items():
        (tmp_path / "ops/file.py").write_text(line)
        assert imports(tmp_path / "ops/file.py") == wanted, line
