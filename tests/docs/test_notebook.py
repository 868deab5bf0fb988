"""The notebook in `examples/`, executed as a reader does, in another copy of the project."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples/tutorial.ipynb"


def test_no_outputs_are_committed():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "examples").mkdir()
    source = tmp_path / "examples" / NOTEBOOK.name
    source.write_text(NOTEBOOK.read_text())
    done = subprocess.run(
        [sys.executable, "-c", "from nbclient.cli import main; main()", "--inplace", source],
        cwd=source.parent,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    outputs = [cell["outputs"] for cell in json.loads(source.read_text())["cells"] if cell["cell_type"] == "code"]
    printed = ["".join(text for each in cell for text in each.get("text", [])) for cell in outputs]
    assert "Swapped in: 16 of 21 activations" in printed[1]
    assert "The report is in work_dirs/tutorial/report.html" in printed[2]
    assert any("AconC" in line for each in outputs[3] for line in each["data"]["text/markdown"])
    assert "The figures are in work_dirs/tutorial/activations/activations.html" in printed[4]
    assert any("image/png" in each["data"] for each in outputs[5])
