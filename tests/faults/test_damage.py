"""Files that are damaged at random places, and full disks."""

import json
import os
import random
import shutil
import subprocess

import pytest
import torch

from acon_mm.checkpoints import CheckpointError, load_checkpoint
from helpers.faults import NO_VAL, arguments, ending, newest, start, wait
from helpers.tiny_runs import run, train


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Cut off, or with some bytes changed, zeroed or left out."""
    place = rng.randrange(len(content))
    size = rng.choice([1, 4, 512])
    return rng.choice(
        [
            content[:place],
            content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :],
            content[:place] + b"\0" * size + content[place + size :],
            content[:place] + content[place + size :],
        ]
    )


def same(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    return True


@pytest.mark.parametrize("compressed", [True, False], ids=["zip", "older"])
def test_checkpoints(compressed, trained, tmp_path, tally):
    rng, path = random.Random(0), tmp_path / "x.pth"
    whole = load_checkpoint(trained["segmentation"])
    small = {"meta": whole["meta"], "state_dict": dict(list(whole["state_dict"].items())[:20])}
    torch.save(small, path, _use_new_zipfile_serialization=compressed)
    content = path.read_bytes()
    for _ in range(500):
        path.write_bytes(damaged(content, rng))
        try:
            found = load_checkpoint(path)
        except CheckpointError as error:
            tally("clear" if str(path) in str(error) else "unclear", str(error))
            continue
        # The older format has no checksum: what PyTorch reads from it cannot be checked.
        right = same(small["state_dict"], found.get("state_dict")) or not compressed
        tally("survived" if right else "lost", path.name)


def test_resuming_from_damaged_checkpoints(configs, tmp_path, tally, capsys):
    rng, work_dir = random.Random(0), tmp_path / "work"
    assert wait(start(lambda: train.main(arguments(configs["segmentation"], work_dir, 4)), tmp_path / "log")) == 0
    kept = {path: path.read_bytes() for path in [*work_dir.glob("*.pth"), work_dir / "last_checkpoint"]}
    for _ in range(30):
        for path, content in kept.items():
            path.write_bytes(content)
        for path in work_dir.glob("iter_*.pth"):
            if path not in kept:
                path.unlink()
        hurt = rng.choice([work_dir / "last_checkpoint", work_dir / "iter_4.pth"])
        hurt.write_bytes(kept[hurt][: rng.randrange(len(kept[hurt]))])
        log = tmp_path / "log"
        log.unlink()
        process = start(lambda: train.main(arguments(configs["segmentation"], work_dir, 5, "--resume")), log)
        good = wait(process) == 0 and newest(work_dir) == 5 and "warning: resuming from" in log.read_text()
        tally("survived" if good else "lost", f"{hurt.name}: {log.read_text()[-300:]}")


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_data_files(task, configs, trained, tmp_path, tally, capsys):
    """Pictures, label maps and annotations. Codecs read a damaged picture in part: that is theirs, and no loss."""
    rng, data = random.Random(0), tmp_path / "data"
    shutil.copytree(configs["data"], data)
    text = "".join(path.read_text() for path in [data / "base.py"]) if task == "segmentation" else ""
    (data / "base.py").write_text(text.replace(str(configs["data"]), str(data)))
    config = data / f"{task}.py"
    config.write_text(config.read_text().replace(str(configs["data"]), str(data)))
    files = [data / "images/1.jpg", data / ("labels/1.png" if task == "segmentation" else "boxes.json")]
    for file in files:
        content = file.read_bytes()
        for cut in (0, 1, *(rng.randrange(len(content)) for _ in range(8))):
            file.write_bytes(content[:cut])
            options = (*NO_VAL, "train_cfg.max_iters=4")  # every picture is read
            outcome, text = ending(lambda o=options: run(train, config, tmp_path / "work", options=o), capsys)
            named = outcome != "clear" or file.name in text
            tally(outcome if named else "unclear", f"{file.name} cut at {cut}: {text}")
        file.write_bytes(content)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 2 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:  # lazily: a process that hangs in it does not keep it
        subprocess.run(["umount", "--lazy", place], check=True)


def test_a_full_disk(small_disk, configs, tmp_path, tally):
    work_dir, log = small_disk / "work", tmp_path / "log"
    for size in range(1000, 2000, 50):
        log.write_text("")
        (small_disk / "filling").write_bytes(os.urandom(1000 * size))
        status = wait(start(lambda: train.main(arguments(configs["segmentation"], work_dir, 6)), log))
        lines = [line for line in log.read_text().splitlines() if line.startswith("error: ")]
        there = newest(work_dir)
        named = status == 1 and len(lines) == 1 and str(work_dir) in lines[0]
        tally("survived" if status == 0 else "clear" if named else "unclear", log.read_text()[-300:])
        assert status or there == 6
        shutil.rmtree(work_dir, ignore_errors=True)


def test_annotations_without_anything_to_learn(configs, tmp_path, tally, capsys):
    annotations = json.loads((configs["data"] / "boxes.json").read_text())

    def changed(**change) -> dict:
        return annotations | {"annotations": [each | change for each in annotations["annotations"]]}

    cases = {
        "no_pictures": annotations | {"images": [], "annotations": []},
        "no_objects": annotations | {"annotations": []},
        "unknown": changed(category_id=9),
        "no_area": changed(bbox=[1, 1, 0, 0]),
        "NaN": changed(bbox=[float("nan")] * 4, area=float("nan")),
        "outside": changed(bbox=[500, 500, 3, 3]),
    }
    for name, content in cases.items():
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content))
        options = (f"train_dataloader.dataset.ann_file={path}", *NO_VAL)
        outcome, text = ending(lambda o=options: run(train, configs["detection"], tmp_path / "w", options=o), capsys)
        named = "the data has nothing usable: of " in text and path.name in text
        tally("lost" if outcome == "survived" else outcome if named else "unclear", f"{name}: {text}")
