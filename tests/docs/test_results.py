"""`docs/make_results.py` fills the tables of `docs/results.md`."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

from helpers.comparison import results
from helpers.tiny_runs import load_tool

ROOT = Path(__file__).parents[2]
TEXT = """before
<!-- results: a; ReLU 0.42, AconC 0.5 -->

old

<!-- end -->
between
<!-- results: b -->
kept
<!-- end -->
"""


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_results", ROOT / "docs" / "make_results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_table_is_filled_and_the_rest_is_kept(script, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "results.json").write_text(json.dumps(results(tmp_path)))
    text = script.filled(TEXT, tmp_path)
    assert text.startswith("before\n<!-- results: a;") and text.endswith(TEXT[TEXT.index("between") :])
    assert "old" not in text
    cells = [[cell.strip(" |") for cell in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line]
    assert cells[0][:5] == ["coco/bbox_mAP", "seed 0", "seed 1", "seed 2", "mean"]
    assert cells[2] == ["ReLU", "0.4", "0.42", "0.41", "0.41", "0.01", "", "", "0.42"]
    assert cells[3][4:7] == ["0.4617", "0.01", "+0.0517"] and cells[3][-1] == "0.5"
    assert cells[4][2] == ""  # a run that failed
    assert "AconC: better than ReLU." in text and "torch 2.13" in text
    assert script.filled(text, tmp_path) == text == script.filled(text, tmp_path / "none")


def test_the_figures_of_the_readme_are_on_the_page(script):
    rows = re.findall(r"^\| digits, .*", (ROOT / "README.md").read_text(), re.MULTILINE)
    figures = [cell for row in rows for cell in re.findall(r"(?<=\| )[\d.]+(?= \|)", row)]
    assert len(figures) >= 3 and all(f"| {figure} |" in script.PAGE.read_text() for figure in figures)


def test_each_table_has_a_command(script):
    """And each comparison a table."""
    page = script.PAGE.read_text()
    parse = load_tool("analysis_tools/compare").parse_args
    asked = {Path(parse(arguments).work_dir).name for _, *arguments in script.commands(page)}
    assert asked == set(re.findall(r"<!-- results: ([^\s;]+)", page)) and len(asked) >= 7
