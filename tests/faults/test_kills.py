"""Processes that are killed at random times while they write."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from helpers import authors_files
from helpers.faults import arguments, kill, newest, start, wait
from helpers.tiny_runs import TOOLS, free_port, load_tool, train, weights

KILLS = 50


def test_training_is_killed_and_resumed(configs, trained, tmp_path, tally):
    rng, log, work_dir, reached = random.Random(0), tmp_path / "log", tmp_path / "work", 0
    command = arguments(configs["segmentation"], work_dir, 100000, "--resume")
    for number in range(KILLS):
        before, end = set(work_dir.glob("*.pth")), time.monotonic() + 60
        process = start(lambda: train.main(command), log)
        while number % 5 and set(work_dir.glob("*.pth")) == before and time.monotonic() < end:
            time.sleep(0.01)  # the others are killed at any time before
        if kill(process, rng.uniform(0, 0.5)) is not None:
            tally("lost", log.read_text()[-500:])
            return
        now = newest(work_dir)
        tally("survived" if now >= reached else "lost", f"{reached} iterations, then {now}")
        reached = now
    assert reached > KILLS / 2  # most were killed after a checkpoint
    command = arguments(configs["segmentation"], work_dir, reached + 2, "--resume")
    assert wait(start(lambda: train.main(command), log)) == 0, log.read_text()[-500:]
    assert newest(work_dir) == reached + 2


def test_a_conversion_is_killed(tmp_path, tally):
    tool, rng, log = load_tool("model_converters/convert_checkpoint"), random.Random(0), tmp_path / "log"
    source, target = tmp_path / "theirs.pth", tmp_path / "ours.pth"
    torch.save(authors_files.make(18, "AconC"), source)
    command = ["official", str(source), str(target)]
    assert wait(start(lambda: tool.main(command), log)) == 0, log.read_text()
    expected = weights(target)
    for _ in range(KILLS):
        kill(start(lambda: tool.main(command), log), rng.uniform(0, 0.6))
        found = weights(target)
        tally("survived" if all(torch.equal(found[key], value) for key, value in expected.items()) else "lost")
    tool.main(command)


def test_the_benchmark_is_killed_and_goes_on(tmp_path, tally):
    tool, rng, log = load_tool("analysis_tools/benchmark"), random.Random(0), tmp_path / "log"
    command = "operators --acts AconC --shapes 1x4x8x8 2x8 3x8 --threads 1 --seconds 0.05 --peers ReLU --device cpu"
    path, known = tmp_path / "out/benchmark.json", []
    for _ in range(KILLS):
        kill(start(lambda: tool.main([*command.split(), "--work-dir", str(path.parent)]), log), rng.uniform(0, 0.4))
        found = {"operators": []} | (json.loads(path.read_text()) if path.exists() else {})
        whole = len(known) // 2 * 2
        finished = found.get("complete") or len(known) == 6
        tally("survived" if finished or found["operators"][:whole] == known[:whole] else "lost", str(found))
        known = [] if finished else found["operators"]
    assert wait(start(lambda: tool.main([*command.split(), "--work-dir", str(path.parent)]), log)) == 0
    assert len(json.loads(path.read_text())["operators"]) == 6


def processes_of(marker: str) -> set[int]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if marker.encode() in path.read_bytes():
                found.add(int(path.parent.name))
        except OSError:
            continue
    return found


def test_the_workers_of_a_killed_check_end(tmp_path, tally):
    marker = f"FAULTS_MARKER={tmp_path.name}-{os.getpid()}"
    command = [sys.executable, TOOLS / "analysis_tools/config_coverage.py", "--work-dir", tmp_path, "--only"]
    env = os.environ | dict([marker.split("=")]) | {"PYTHONPATH": str(TOOLS.parent)}
    first = subprocess.Popen([*command, "mmseg/erfnet", "mmseg/fastscnn", "mmseg/bisenetv1"], env=env)
    end = time.monotonic() + 90
    while time.monotonic() < end and not (tmp_path / "models.jsonl").exists():
        time.sleep(0.2)
    assert len(processes_of(marker)) > 2
    first.kill()
    first.wait()
    end = time.monotonic() + 15
    while time.monotonic() < end and processes_of(marker):
        time.sleep(0.2)
    tally("lost" if processes_of(marker) else "survived")
    for process in processes_of(marker):
        os.kill(process, signal.SIGKILL)


def test_a_killed_process_of_two(configs, tmp_path, tally):
    """The other one ends too, and both can go on."""
    log, work_dir = tmp_path / "log", tmp_path / "work"
    env = os.environ | {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2"}

    def started(iterations: int, rank: int, port: str) -> int:
        command = arguments(configs["segmentation"], work_dir, iterations, "--resume", "--launcher", "pytorch")

        def run() -> None:
            os.environ.update(env | {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_PORT": port})
            train.main(command)

        return start(run, log)

    for killed in (0, 1):
        port = free_port()
        ranks = [started(100000, rank, port) for rank in (0, 1)]
        end, before = time.monotonic() + 60, newest(work_dir)
        while time.monotonic() < end and newest(work_dir) <= before:
            time.sleep(0.1)
        os.kill(ranks[killed], signal.SIGKILL)
        os.waitpid(ranks[killed], 0)
        status = wait(ranks[1 - killed])
        tally("survived" if status not in (0, -9) and newest(work_dir) > before else "lost", log.read_text()[-500:])
    port, last = free_port(), newest(work_dir) + 2
    assert [wait(each) for each in [started(last, rank, port) for rank in (0, 1)]] == [0, 0], log.read_text()[-900:]


def test_two_trainings_in_one_directory(configs, tmp_path, tally, capsys, monkeypatch):
    log, work_dir = tmp_path / "log", tmp_path / "work"
    command = arguments(configs["segmentation"], work_dir, 100000)
    first = start(lambda: train.main(command), log)
    while newest(work_dir) < 1:
        time.sleep(0.1)
    second = tmp_path / "second"
    refused = wait(start(lambda: train.main(command), second)) == 1
    tally("clear" if refused and f"error: another training uses {work_dir}" in second.read_text() else "lost")
    kill(first, 0)
    third = start(
        lambda: train.main(arguments(configs["segmentation"], work_dir, newest(work_dir) + 2, "--resume")), log
    )
    tally("survived" if wait(third) == 0 else "lost", log.read_text()[-500:])
