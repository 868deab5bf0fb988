"""The walk over all configs: each distinct model once, in parallel, and what was found stays on disk."""

import gc
import json
import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

import torch
from tqdm import tqdm

from . import configs, table
from .check import check

_PACKAGES = ("torch", "mmengine", "mmcv", "mmdet", "mmsegmentation", "mmdetection")
_MODELS_PER_PROCESS = 20
#: seconds that one model may take
LIMIT = 600


def coverage(
    out: Path,
    prefixes: Sequence[str] = ("",),
    sample: int | None = None,
    workers: int = 2,
    act_cfg: dict | None = None,
    retry: bool = False,
) -> dict:
    """Check the shipped configs whose names begin with one of ``prefixes``; write ``coverage.json`` and ``.md``.

    Models are distinct by their layers: configs that differ in schedule or data alone share the result of one check.
    """
    act_cfg = act_cfg or dict(type="AconC")
    out.mkdir(parents=True, exist_ok=True)
    names = [name for package in ("mmdet", "mmseg") for name in configs.shipped(package)]
    names = [name for name in names if name.startswith(tuple(prefixes))]
    if sample is not None:
        names = configs.spread(names, sample)
    loaded = _loaded(out / "configs.json", names, workers)
    finished = _finished(out / "models.jsonl", act_cfg, retry)
    jobs: dict[str, tuple] = {}
    for name, (key, _) in loaded.items():
        if key is not None and key not in finished and key not in jobs:
            jobs[key] = (name, key, act_cfg)
    written = time.monotonic()
    with open(out / "models.jsonl", "a") as log:
        for result in _progress(_results(list(jobs.values()), workers), len(jobs), "models"):
            finished[result["key"]] = result
            log.write(json.dumps(result) + "\n")
            log.flush()
            if time.monotonic() - written > 20:  # so that it can be read before the end
                _write(out, loaded, finished, act_cfg)
                written = time.monotonic()
    return _write(out, loaded, finished, act_cfg)


def _check(name: str, key: str, act_cfg: dict) -> dict:
    result = _within(LIMIT, lambda: check(configs.model_of(name), name.partition("/")[0], act_cfg))
    return {"key": key, "config": name, "act_cfg": act_cfg, **result}


def _results(jobs: list[tuple], workers: int, check: Callable[..., dict] = _check) -> Iterator[dict]:
    """The result of each job, as it is ready; of one that kills its process, that it does.

    Processes are new every few models, which gives their memory back. (The executor can do so itself, but waits
    forever then at times: CPython issue 115634.)
    """
    size = _MODELS_PER_PROCESS * workers
    for start in range(0, len(jobs), size):
        left = jobs[start : start + size]
        try:
            with ProcessPoolExecutor(workers, _context(), _one_thread) as pool:
                futures = {pool.submit(check, *job): job for job in left}
                for future in as_completed(futures):
                    result = future.result()
                    left.remove(futures[future])
                    yield result
        except BrokenProcessPool:
            if len(left) > 1:  # one of them did it
                for job in left:
                    yield from _results([job], 1, check)
            else:
                name, key, act_cfg = left[0]
                problems = {"cannot be checked": ["the process died"]}
                yield {
                    "key": key,
                    "config": name,
                    "act_cfg": act_cfg,
                    "status": "failed",
                    "problems": problems,
                    "seconds": 0,
                }


def _context():
    """New processes are copies of one that has imported everything, and has not computed yet."""
    context = multiprocessing.get_context("forkserver")
    packages = [f"{package}.{part}" for package in ("mmdet", "mmseg") for part in ("models", "datasets")]
    context.set_forkserver_preload([__name__, *packages, "torch._dynamo"])
    return context


def _one_thread() -> None:
    gc.freeze()  # what was imported stays, and need not be looked through after each model
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def _progress(items: Iterable, total: int, unit: str) -> Iterable:
    return tqdm(items, total=total, unit=f" {unit}", smoothing=0.05)


def _loaded(path: Path, names: list[str], workers: int) -> dict[str, tuple[str | None, str | None]]:
    """What :func:`_load` says of each config; kept in ``path``."""
    versions = _versions()
    before = json.loads(path.read_text()) if path.exists() else {}
    known = before["configs"] if before.get("versions") == versions else {}
    missing = [name for name in names if name not in known]
    with ProcessPoolExecutor(workers, _context(), _one_thread) as pool:
        results = pool.map(_load, missing, chunksize=4)
        known |= dict(zip(missing, _progress(results, len(missing), "configs"), strict=True))
    path.write_text(json.dumps({"versions": versions, "configs": known}, indent=1))
    return {name: tuple(known[name]) for name in names}


def _load(name: str) -> tuple[str | None, str | None]:
    """Key of the model and None, or None and why there is none."""
    try:
        model = configs.model_of(name)
    except Exception as error:
        # Without the places where packages are installed here.
        text = re.sub(r"[^\s'\"]*site-packages/", "", " ".join(str(error).split())).partition(", the current sys.path")[
            0
        ]
        return None, f"{type(error).__name__}: {text[:300]}"
    if model is None:
        return None, None
    return configs.key_of(model, name), None


def _within(seconds: int, function: Callable[[], dict]) -> dict:
    def stop(*_):
        raise TimeoutError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        return function()
    except Exception as error:
        return {"status": "failed", "problems": {"cannot be checked": [f"{type(error).__name__}: {error}"[:400]]}}
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _finished(path: Path, act_cfg: dict, retry: bool) -> dict[str, dict]:
    if not path.exists():
        return {}
    results = [json.loads(line) for line in path.read_text().splitlines()]
    latest = {result["key"]: result for result in results if result["act_cfg"] == act_cfg}
    return {key: each for key, each in latest.items() if not (retry and each["status"] == "failed")}


def _write(out: Path, loaded: dict, finished: dict, act_cfg: dict) -> dict:
    entries = {}
    for name, (key, error) in loaded.items():
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
    (out / "coverage.json").write_text(json.dumps(report, indent=1))
    (out / "coverage.md").write_text(table.markdown(report))
    return report


@cache
def _versions() -> list[str]:
    found = {each.metadata["Name"]: each.version for each in distributions()}
    return [f"{name} {found[name]}" for name in sorted(found) if name.removeprefix("onedl-") in _PACKAGES]
