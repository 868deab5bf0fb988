"""The embedded sample: pixels and annotations, and how it is made and checked."""

from __future__ import annotations

import importlib.resources
import multiprocessing
import re
import runpy
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from mmengine.logging import MMLogger
from PIL import Image
from pycocotools.coco import COCO

from acon_mm.compat import strict_zip
from acon_mm.datasets import digits, pictures
from acon_mm.datasets.digits import ensure_digits
from acon_mm.datasets.pictures import PictureMaker
from helpers.digits_sample import SMALL, content, make_together, pixels
from helpers.project import project

# Decoded pixels and annotations of SMALL under the pinned versions, the same on every machine.
SMALL_SHA256 = "20a3d42e1e89b922f98b3efa1a358ace79edfd57a48038b97ba8fdccdc939cc2"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return ensure_digits(tmp_path_factory.mktemp("sample") / "digits", **SMALL)


@pytest.fixture
def root(made, tmp_path) -> Path:
    """A copy to damage."""
    return shutil.copytree(made, tmp_path / "digits")


@pytest.fixture
def log(caplog):
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


@pytest.fixture(scope="module")
def maker() -> PictureMaker:
    return PictureMaker()


def test_pins_are_those_of_the_sample_extra():
    extras = project()["optional-dependencies"]
    pins = (requirement.split("==") for requirement in extras["sample"])
    assert dict(pin for pin in pins if len(pin) == 2) == pictures.PINNED


def test_pixels_and_annotations_are_known(made, maker):
    if maker.packages != pictures.PINNED:
        pytest.skip(f"the digest holds for {pictures.PINNED}")
    assert content(made) == SMALL_SHA256


def test_a_picture_depends_on_seed_split_and_index_only(maker, made):
    again = maker.make("val", 1)
    assert np.array_equal(again.image, pixels(made / "images/val/000001.png"))
    assert np.array_equal(again.labels, pixels(made / "labels/val/000001.png"))
    for other in (maker.make("val", 0), maker.make("train", 1), PictureMaker(seed=1).make("val", 1)):
        assert not np.array_equal(again.image, other.image)


def test_splits_share_neither_digits_nor_photographed_pixels(maker):
    pools = maker.pools
    assert sorted(np.concatenate([pools["train"], pools["val"]])) == list(range(1797))
    for split in pictures.SPLITS:
        used = {digit["digit_index"] for index in range(40) for digit in maker.make(split, index).instances}
        assert used and used <= set(pools[split].tolist())
    for train, val, name in strict_zip(*maker.backdrops.values(), pictures.PHOTOGRAPHS):
        package, path = name.split("/", 1)
        with Image.open(importlib.resources.files(package) / path) as photo:
            assert np.array_equal(np.hstack([train, val]), np.array(photo.convert("RGB"))), name


@pytest.mark.parametrize("split", ["train", "val"])
def test_masks_boxes_and_label_maps_agree(made, split):
    coco = COCO(made / f"annotations/instances_{split}.json")
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == list("0123456789")
    assert len(coco.imgs) == SMALL[f"num_{split}"]
    for image in coco.imgs.values():
        labels = pixels(made / "labels" / split / image["file_name"])
        shape = (image["height"], image["width"])
        assert pixels(made / "images" / split / image["file_name"]).shape == (*shape, 3)
        covered = np.zeros(shape, bool)
        instances = coco.imgToAnns[image["id"]]
        assert 2 <= len(instances) <= 6
        for instance in instances:
            mask = coco.annToMask(instance).astype(bool)
            rows, columns = np.nonzero(mask)
            x, y, width, height = instance["bbox"]
            assert (columns.min(), rows.min()) == (x, y)
            assert (columns.max() + 1, rows.max() + 1) == (x + width, y + height)
            assert instance["area"] == mask.sum() > 0
            assert not (covered & mask).any()
            covered |= mask
            # A rim over the digit is that of another one that lies over it.
            assert set(np.unique(labels[mask])) - {255} == {instance["category_id"]}
        assert set(np.unique(labels[~covered])) == {0, 255}


def test_digits_are_those_of_scikit_learn_and_legible(maker):
    import sklearn.datasets

    target = sklearn.datasets.load_digits().target
    for index in range(20):
        picture = maker.make("val", index)
        luma = picture.image @ np.array([0.299, 0.587, 0.114])
        for instance in picture.instances:
            digit = target[instance["digit_index"]]
            assert instance["category_id"] == digit + 1
            x, y, width, height = instance["bbox"]
            window = np.s_[y : y + height, x : x + width]
            inside, outside = picture.labels[window] == digit + 1, picture.labels[window] == 0
            if outside.sum() > 20:  # a digit that fills its box has no surroundings there
                assert abs(np.median(luma[window][inside]) - np.median(luma[window][outside])) > 40


def test_whole_sample_is_left_alone(made, capfd, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    monkeypatch.setitem(sys.modules, "skimage", None)  # nor is what makes it needed
    assert ensure_digits(made, **SMALL) == made
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before
    assert capfd.readouterr().err == ""


def test_making_shows_progress(tmp_path, capfd):
    ensure_digits(tmp_path / "digits", **SMALL)
    assert re.search(r"digits sample: 100%.* 6/6 ", capfd.readouterr().err)


def damage_picture(root):
    path = root / "images/train/000002.png"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda root: (root / "labels/val/000001.png").unlink(), "labels/val/000001.png is missing"),
        (damage_picture, "images/train/000002.png has changed"),
        (lambda root: (root / "annotations/instances_val.json").write_text("{}"), "instances_val.json has changed"),
        (shutil.rmtree, "it is missing"),
    ],
)
def test_damaged_sample_is_made_again(root, made, log, damage, reason):
    damage(root)
    ensure_digits(root, **SMALL)
    assert reason in log.text
    assert content(root) == content(made)
    assert {path.name for path in root.parent.iterdir()} == {"digits", ".digits.lock"}


def test_other_parameters_make_it_again(root, log):
    ensure_digits(root, **{**SMALL, "num_val": 1})
    assert "it was made with num_val=2, not num_val=1" in log.text
    assert len(list(root.glob("images/val/*.png"))) == 1


def test_interrupted_making_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(PictureMaker, "make", interrupt)
        ensure_digits(tmp_path / "digits", **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == [".digits.lock"]


def test_foreign_files_are_never_removed(root, made, tmp_path):
    (root / "images/train/holiday.png").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"images/train/holiday.png'.*choose another data_root"):
        ensure_digits(root, **SMALL)
    (root / "images/train/holiday.png").rename(root / "notes.txt")
    assert ensure_digits(root, **SMALL) == root  # does no harm while nothing has to be replaced
    with pytest.raises(FileExistsError, match=r"1 file\(s\).*'notes.txt'"):
        ensure_digits(root, **SMALL, seed=1)
    assert content(root) == content(made)

    other = tmp_path / "other"
    other.mkdir()
    (other / "manifest.json").write_text('{"files": {"manifest.json": ""}}')
    with pytest.raises(FileExistsError, match=r"other.*'manifest.json'"):
        ensure_digits(other, **SMALL)
    assert [path.name for path in other.iterdir()] == ["manifest.json"]
    with pytest.raises(FileExistsError, match="is not a directory"):
        ensure_digits(other / "manifest.json", **SMALL)


def test_the_command_says_in_one_line_where_it_cannot_write(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr("sys.argv", ["acon_mm.datasets", str(tmp_path / "file/digits")])
    with pytest.raises(SystemExit, match=f"^error: .*'{tmp_path}/file'$"):
        runpy.run_module("acon_mm.datasets", run_name="__main__")


def test_unpinned_versions_are_warned_of(tmp_path, log, monkeypatch):
    monkeypatch.setattr(digits, "PINNED", {**pictures.PINNED, "pillow": "1.0"})
    ensure_digits(tmp_path / "digits", **SMALL)
    (warning,) = (record.getMessage() for record in log.records if record.levelname == "WARNING")
    assert "pins: numpy" in warning and "pillow 1.0" in warning and "may differ" in warning


@pytest.mark.parametrize("package", ["sklearn.datasets", "skimage"])
def test_missing_package_names_the_extra(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"{package}' is missing: pip install scikit-learn scikit-image"):
        ensure_digits(tmp_path / "digits", **SMALL)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"num_train": 0}, "num_train must be an int of 1 or more, got 0"),
        ({"seed": -1}, "seed must be an int of 0 or more, got -1"),
        ({"image_size": 32}, "image_size must be an int of 64 or more, got 32"),
        ({"num_val": "x"}, "num_val must be an int of 1 or more, got 'x'"),
    ],
)
def test_bad_parameters_are_refused(tmp_path, parameters, message):
    with pytest.raises(ValueError, match=message):
        ensure_digits(tmp_path / "digits", **{**SMALL, **parameters})


@pytest.mark.slow
def test_two_processes_make_it_once(made, tmp_path):
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(2, mp_context=context) as pool:
        outcome = pool.map(make_together, [tmp_path / "digits"] * 2, [manager.Barrier(2)] * 2)
        assert sorted(outcome) == [(0, content(made)), (1, content(made))]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a directory in which nothing can be made")
def test_a_place_that_takes_no_lock_is_an_error():
    with pytest.raises(OSError, match="/proc/"):
        ensure_digits("/proc/digits")
