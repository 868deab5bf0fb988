"""What a comparison says of a run that failed."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from acon_mm.analysis.comparison.execute import _reason


def test_a_detector_that_finds_nothing(tmp_path):
    run: Any = SimpleNamespace(directory=tmp_path)
    (tmp_path / "log.txt").write_text("the last line of the log\n")
    assert _reason(run, 0) == "no result: the last line of the log"
    (tmp_path / "test.json").write_text(json.dumps({"metrics": {}, "time": None}))
    assert "no metric" in _reason(run, 0) and "score_thr" in _reason(run, 0)
