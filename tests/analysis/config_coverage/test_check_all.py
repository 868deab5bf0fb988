"""The check of many configs: how results are kept, counted and written."""

import json

import pytest

from acon_mm.analysis.config_coverage import check_all, table
from acon_mm.analysis.config_coverage.check_all import Job
from helpers import coverage_models

SMALL = (
    "mmseg/erfnet/erfnet_fcn_4xb4-160k_cityscapes-512x1024.py",
    "mmseg/fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py",
)


@pytest.mark.slow
def test_results_are_written_and_used_again(tmp_path):
    """A second call checks what is missing, and with ``retry`` also what failed."""
    report = check_all.check_all(tmp_path, prefixes=SMALL, workers=1)
    assert json.loads((tmp_path / "coverage.json").read_text()) == report
    written = (tmp_path / "coverage.md").read_text()
    assert "mmseg: 2 configs (2 distinct models): 2 converted" in written
    assert "| mmseg/erfnet | 1 | 1 | 0 | 0 | 0 | 0 | 1 | 1 | 74 | 74 |" in written

    log = tmp_path / "models.jsonl"
    results = [json.loads(line) for line in log.read_text().splitlines()]
    assert sorted(result["config"] for result in results) == list(SMALL)
    for status, retry, checked in (("converted", False, False), ("failed", False, False), ("failed", True, True)):
        log.write_text(json.dumps({**results[0], "status": status, "seconds": -1}) + "\n")
        again = check_all.check_all(tmp_path, prefixes=[results[0]["config"]], workers=1, retry=retry)
        assert (again["models"][results[0]["key"]]["seconds"] >= 0) == checked
    assert len(log.read_text().splitlines()) == 2


@pytest.mark.slow
def test_a_model_that_kills_its_process_fails_and_the_others_are_checked(monkeypatch):
    monkeypatch.setattr(check_all, "_MODELS_PER_PROCESS", 2)
    names = ["a", "dies", "b", "c", "d"]
    jobs = [Job(name, name, {}) for name in names]
    results = {each["config"]: each for each in check_all._results(jobs, 1, coverage_models.check_job)}
    assert results.keys() == set(names)
    assert {name for name, each in results.items() if each["status"] == "failed"} == {"dies"}
    assert results["dies"]["problems"] == {"cannot be checked": ["the process died"]}


def test_the_table_counts_configs_and_models():
    converted = {"status": "converted", "sites": 3, "converted": 4, "passes": {"loss": 64}, "config": "mmdet/x/1.py"}
    failed = {"status": "failed", "sites": 2, "problems": {"left over": ["relu"]}, "config": "mmdet/y/1.py"}
    entries = {
        "mmdet/x/1.py": {"model": "a"},
        "mmdet/x/2.py": {"model": "a"},
        "mmdet/y/1.py": {"model": "b"},
        "mmseg/z/1.py": {"status": "unreadable", "error": "no mmpretrain"},
        "mmseg/z/2.py": {"model": "c"},
    }
    models = {"a": {"key": "a", **converted}, "b": {"key": "b", **failed}}
    report = {"configs": entries, "models": models}
    assert table.summary(report).splitlines() == [
        "mmdet: 3 configs (2 distinct models): 2 converted, 1 failed",
        "mmseg: 2 configs (1 distinct models): 1 unreadable, 1 pending",
    ]
    assert table.failures(report) == ["mmdet/y/1.py", "mmseg/z/2.py"]
    written = table.markdown(report)
    for line in (
        "| mmdet/x | 2 | 2 | 0 | 0 | 0 | 0 | 1 | 1 | 3 | 4 |",
        "| mmdet/y | 1 | 0 | 0 | 1 | 0 | 0 | 1 | 0 | 2 | 0 |",
        "| mmseg/z | 2 | 0 | 0 | 0 | 1 | 1 | 0 | 0 | 0 | 0 |",
        "- left over: relu: mmdet/y/1.py",
        "- no mmpretrain: mmseg/z/1.py",
    ):
        assert line in written.splitlines()
