"""Checks all configs in parallel, each distinct model once, and keeps the results on disk."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from importlib.metadata import distributions
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from ...compat import strict_zip
from ...errors import UserError
from ...files import read_json, write_file, write_json
from .. import shipped_configs
from . import table
from .check import check

_PACKAGES = (
    "torch",
    "mmengine",
    "mmcv",
    "mmdet",
    "mmsegmentation",
    "mmdetection",
    "mmpretrain",
    "timm",
    "transformers",
)
_MODELS_PER_PROCESS = 20
#: seconds that the check of one model may take
TIME_LIMIT = 600


class Job(NamedTuple):
    """A model to check.

    Attributes:
        config: a config that has this model.
        key: of the model's layers, see :func:`acon_mm.analysis.shipped_configs.layers_key`.
        act_cfg: the activation.
    """

    config: str
    key: str
    act_cfg: dict


class ModelKey(NamedTuple):
    """What :func:`_key` finds in a config. Both are None for a config without a model.

    Attributes:
        key: of the model's layers.
        error: why the config cannot be read.
    """

    key: str | None = None
    error: str | None = None


def check_all(
    out: Path,
    *,
    prefixes: Sequence[str] = ("",),
    sample: int | None = None,
    workers: int = 2,
    act_cfg: dict | None = None,
    retry: bool = False,
) -> dict:
    """Check shipped configs; write ``coverage.json`` and ``coverage.md`` to ``out``.

    Configs whose models have the same layers share one check. Results in ``out`` of an earlier call are used again.

    Args:
        out: a directory.
        prefixes: only configs whose names start with one of these.
        sample: only so many configs, from all families.
        workers: the number of processes.
        act_cfg: the activation; ``AconC`` by default.
        retry: check models again that failed in an earlier call.

    Returns:
        what ``coverage.json`` holds.
    """
    act_cfg = act_cfg or dict(type="AconC")
    names = [name for package in ("mmdet", "mmseg") for name in shipped_configs.shipped(package)]
    names = [name for name in names if name.startswith(tuple(prefixes))]
    if sample is not None:
        names = shipped_configs.sample(names, sample)
    if not names:
        raise UserError(f"no shipped config starts with {' or '.join(prefixes)}, or the sample is empty")
    keys = _keys(out / "configs.json", names, workers)
    log = _read(out / "models.jsonl")
    finished = _finished(log, act_cfg, retry)
    jobs: dict[str, Job] = {}
    for name in chain.from_iterable(shipped_configs.turns(keys)):  # a part of the check says something of each family
        key = keys[name].key
        if key is not None and key not in finished:
            jobs.setdefault(key, Job(config=name, key=key, act_cfg=act_cfg))
    written = time.monotonic()
    for result in tqdm(_results(list(jobs.values()), workers), total=len(jobs), unit=" models"):
        finished[result["key"]] = result
        log.append(result)
        write_file(out / "models.jsonl", "".join(json.dumps(each) + "\n" for each in log))
        if time.monotonic() - written > 20:  # the report can be read before the end
            _write(out, keys, finished, act_cfg)
            written = time.monotonic()
    return _write(out, keys, finished, act_cfg)


def _check_job(job: Job) -> dict:
    package = job.config.partition("/")[0]
    return _result(job, _within_limit(lambda: check(shipped_configs.model_of(job.config), package, job.act_cfg)))


def _result(job: Job, result: dict) -> dict:
    return {"key": job.key, "config": job.config, "act_cfg": job.act_cfg, **result}


def _failed(problem: str) -> dict:
    return {"status": "failed", "problems": {"cannot be checked": [problem]}}


def _results(jobs: list[Job], workers: int, check_job: Callable[[Job], dict] = _check_job) -> Iterator[dict]:
    """The result of each job as soon as it is ready. A job that kills its process gets a result that says so.

    Processes are replaced after a few models, which frees their memory. (The executor could do that itself, but then
    it sometimes waits forever: CPython issue 115634.)
    """
    size = _MODELS_PER_PROCESS * workers
    for start in range(0, len(jobs), size):
        left = jobs[start : start + size]
        try:
            with ProcessPoolExecutor(workers, _context(), _start_worker) as pool:
                futures = {pool.submit(check_job, job): job for job in left}
                for future in as_completed(futures):
                    result = future.result()
                    left.remove(futures[future])
                    yield result
        except BrokenProcessPool:
            if len(left) == 1:
                yield _result(left[0], {**_failed("the process died"), "seconds": 0})
            else:  # one of them killed the process: check each in a process of its own
                for job in left:
                    yield from _results([job], 1, check_job)


def _context() -> multiprocessing.context.BaseContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"{__package__}.preload"])
    return context


def _start_worker() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    gc.freeze()  # the garbage collector need not look through all imported modules after each model
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def _end_with_parent() -> None:
    """Wait for the end of the main process. If it was killed, its workers would wait for more models forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _keys(path: Path, names: list[str], workers: int) -> dict[str, ModelKey]:
    """What :func:`_key` returns for each config. The results are kept in the file ``path``."""
    versions = _versions()
    stored = read_json(path, "versions", "configs") or {}
    known = stored["configs"] if stored.get("versions") == versions else {}
    missing = [name for name in names if name not in known]
    with ProcessPoolExecutor(workers, _context(), _start_worker) as pool:
        results = pool.map(_key, missing, chunksize=4)
        known |= dict(strict_zip(missing, tqdm(results, total=len(missing), unit=" configs")))
    write_json(path, {"versions": versions, "configs": known})
    return {name: ModelKey(*known[name]) for name in names}


def _key(name: str) -> ModelKey:
    try:
        model = shipped_configs.model_of(name)
    except Exception as error:
        # without the directories where packages are installed
        text = re.sub(r"[^\s'\"]*site-packages/", "", " ".join(str(error).split()))
        text = text.partition(", the current sys.path")[0]
        return ModelKey(error=f"{type(error).__name__}: {text[:300]}")
    return ModelKey(shipped_configs.layers_key(model, name) if model else None)


def _within_limit(function: Callable[[], dict]) -> dict:
    """The function's result, or one that says that it failed or took too long."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"took more than {TIME_LIMIT} s")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(TIME_LIMIT)
    try:
        return function()
    except Exception as error:
        return _failed(f"{type(error).__name__}: {error}"[:400])
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def _read(path: Path) -> list[dict]:
    """The results in a file of JSON lines, without damaged ones."""
    results = []
    for number, line in enumerate(path.read_bytes().splitlines() if path.exists() else (), 1):
        try:
            result = json.loads(line)
            result["key"], result["act_cfg"], result["status"]
            results.append(result)
        except (ValueError, TypeError, KeyError):
            print(f"warning: line {number} of {path} is damaged: its model is checked again", file=sys.stderr)
    return results


def _finished(results: list[dict], act_cfg: dict, retry: bool) -> dict[str, dict]:
    """The results by key; without those that failed if ``retry``."""
    latest = {result["key"]: result for result in results if result["act_cfg"] == act_cfg}
    return {key: each for key, each in latest.items() if not (retry and each["status"] == "failed")}


def _write(out: Path, keys: dict[str, ModelKey], finished: dict, act_cfg: dict) -> dict:
    entries = {}
    for name, (key, error) in keys.items():
        if key is not None:
            entries[name] = {"model": key}
        else:
            entries[name] = {"status": "no model"} if error is None else {"status": "unreadable", "error": error}
    used = {entry["model"] for entry in entries.values() if "model" in entry}
    report = {
        "act_cfg": act_cfg,
        "versions": _versions(),
        "models": {key: result for key, result in finished.items() if key in used},
        "configs": entries,
    }
    write_json(out / "coverage.json", report)
    write_file(out / "coverage.md", table.markdown(report))
    return report


@cache
def _versions() -> list[str]:
    found = {each.metadata["Name"]: each.version for each in distributions()}
    return [f"{name} {found[name]}" for name in sorted(found) if name.removeprefix("onedl-") in _PACKAGES]
