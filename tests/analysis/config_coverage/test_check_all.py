"""The check of many configs: how results are kept, counted and written."""

import json
from concurrent.futures import ThreadPoolExecutor

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


def result(key):
    return {"key": key, "config": key, "act_cfg": {"type": "AconC"}, "status": "converted"}


@pytest.mark.parametrize("damage", [b'{"key": "b", "conf', b"\x80\xff", b"[]", b"{}", b"null", b"\0" * 99])
def test_a_damaged_result_is_told_and_found_again(damage, tmp_path, monkeypatch, capsys):
    log, keys = tmp_path / "models.jsonl", {key: check_all.ModelKey(key) for key in "abc"}
    monkeypatch.setattr(check_all.shipped_configs, "shipped", lambda package: list("abc") if package == "mmdet" else [])
    monkeypatch.setattr(check_all, "_keys", lambda *_: keys)
    monkeypatch.setattr(check_all, "_results", lambda jobs, _: (result(job.key) for job in jobs))
    lines = [json.dumps(result(key)).encode() for key in "ac"]
    log.write_bytes(b"\n".join([lines[0], damage, lines[1]]))
    check_all.check_all(tmp_path)
    assert f"warning: line 2 of {log} is damaged" in capsys.readouterr().err
    assert [json.loads(line) for line in log.read_text().splitlines()] == [result(key) for key in "acb"]
    check_all.check_all(tmp_path)
    assert not capsys.readouterr().err.startswith("warning")


def test_damaged_keys_are_told_and_found_again(tmp_path, monkeypatch, capsys):
    class Pool(ThreadPoolExecutor):
        def map(self, function, items, chunksize):
            return super().map(function, items)

    monkeypatch.setattr(check_all, "ProcessPoolExecutor", lambda *_: Pool(1))
    monkeypatch.setattr(check_all, "_key", lambda name: check_all.ModelKey(name))
    path = tmp_path / "configs.json"
    expected = check_all._keys(path, ["a", "b"], 1)
    whole = path.read_bytes()
    for end in (0, 1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        assert check_all._keys(path, ["a", "b"], 1) == expected and path.read_bytes() == whole
        assert f"warning: {path} is damaged" in capsys.readouterr().err


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
