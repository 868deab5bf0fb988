"""The tests themselves: their directories mirror the package, and they share code in tests/helpers only."""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
FILES = sorted(TESTS.rglob("*.py"))


def imports_of_tests(source: str) -> list[str]:
    """The imports of test files and of conftest.py."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = ["." * node.level + ".".join(filter(None, [node.module, alias.name])) for alias in node.names]
        else:
            continue
        found += [
            name
            for name in names
            if any(part in ("conftest", "tests") or part.startswith("test_") for part in name.split("."))
        ]
    return found


def test_no_file_imports_a_test_file():
    found = {path.relative_to(TESTS).as_posix(): imports_of_tests(path.read_text()) for path in FILES}
    assert {name: imports for name, imports in found.items() if imports} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import test_digits",
        "import tests.helpers.act_trace",
        "from test_digits import made",
        "from datasets.test_digits import made",
        "from datasets import test_digits",
        "from conftest import configs",
        "from . import test_digits",
        "from .test_digits import made",
        "def test():\n    import test_digits",
    ],
)
def test_imports_of_tests_are_found(source):
    assert len(imports_of_tests(source)) == 1


def test_other_imports_are_not_imports_of_tests():
    assert imports_of_tests("import torch.testing\nfrom helpers.tiny_runs import test\nfrom .pages import ROOT") == []


def test_directories_are_those_of_the_package():
    package = {path.parent.name for path in TESTS.with_name("acon_mm").glob("*/__init__.py")}
    directories = {path.relative_to(TESTS).parts[0] for path in FILES if path.parent != TESTS}
    assert {"layers", "ops"} <= package
    assert directories == package | {"configs", "docs", "faults", "helpers", "tools"}


def test_helpers_hold_no_tests():
    assert [path for path in FILES if path.parent.name == "helpers" and path.name.startswith("test_")] == []
    assert {path.name for path in FILES if path.parent.name != "helpers" and not path.name.startswith("test_")} == {
        "conftest.py"
    }
