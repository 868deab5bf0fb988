"""What a comparison says of a run that failed."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from acon_mm.analysis.comparison.execute import Run, _reason


def test_a_detector_that_finds_nothing(tmp_path):
    run: Any = SimpleNamespace(directory=tmp_path)
    (tmp_path / "log.txt").write_text("the last line of the log\n")
    assert _reason(run, 0) == "no result: the last line of the log"
    (tmp_path / "test.json").write_text(json.dumps({"metrics": {}, "time": None}))
    assert "no metric" in _reason(run, 0) and "score_thr" in _reason(run, 0)


def test_a_run_with_damaged_results_is_not_done(tmp_path):
    run = Run(variant=SimpleNamespace(label="ReLU", directory="ReLU"), seed=0, directory=tmp_path, tools=tmp_path)
    for name, content in (("test", {"metrics": {"mIoU": 1.0}}), ("done", {"seconds": 1.0})):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    assert run.done == {"seconds": 1.0}
    for name in ("test", "done"):
        path = tmp_path / f"{name}.json"
        content = path.read_text()
        path.write_text(content[:-3])
        assert run.done is None
        path.write_text(content)
