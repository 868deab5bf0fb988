"""The embedded sample on disk. The first use makes it, and every use checks that it is complete."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path

from filelock import FileLock
from mmengine.logging import print_log
from PIL import Image
from tqdm import tqdm

from ..compat import strict_zip
from .pictures import CLASSES, PINNED, SPLITS, PictureMaker

MADE_BY = "acon_mm.datasets.digits"
VERSION = 1  # increase it when the same parameters give other pixels or annotations
MANIFEST = "manifest.json"


def ensure_digits(
    root: str | os.PathLike = "data/digits",
    num_train: int = 600,
    num_val: int = 150,
    image_size: int = 160,
    seed: int = 0,
) -> Path:
    """Return the directory of the digits sample. Make the sample if it is missing, damaged or has other parameters.

    The directory contains `images/{split}/000000.png` (RGB), `labels/{split}/000000.png` (0 background, 1 + digit,
    255 ignored), `annotations/instances_{split}.json` (COCO) and `manifest.json` with the SHA-256 of every file. The
    sample is made in a directory beside it and then moved, under a file lock. So processes that start together make
    it once, and none sees a part of it.

    Raises:
        FileExistsError: the directory has files that are not part of the sample and would be removed.
        ImportError: the sample must be made, and a package of the `sample` extra is missing.
        ValueError: a count is below 1, the seed is below 0 or the pictures are below 64 pixels: digits are not legible.
    """
    parameters = {"num_train": num_train, "num_val": num_val, "image_size": image_size, "seed": seed}
    for (name, value), least in strict_zip(parameters.items(), (1, 1, 64, 0)):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an int of {least} or more, got {value!r}")
    root = Path(root).resolve()
    # First without the lock, so that a complete sample on a read-only disk can be used.
    if _fault(root, parameters):
        root.parent.mkdir(parents=True, exist_ok=True)
        lock = root.with_name(f".{root.name}.lock")
        lock.touch()  # where no file can be made, FileLock waits forever
        with FileLock(lock):
            if fault := _fault(root, parameters):  # another process may have made it
                _replace(root, parameters, fault)
    return root


def _read_manifest(root: Path) -> dict | None:
    """The manifest of a sample that this module made, or None."""
    try:
        manifest = json.loads((root / MANIFEST).read_text())
    except (OSError, ValueError):
        return None
    ours = isinstance(manifest, dict) and manifest.get("made_by") == MADE_BY
    return manifest if ours and isinstance(manifest.get("files"), dict) else None


def _fault(root: Path, parameters: dict) -> str | None:
    """Why the sample must be made, or None if it is complete."""
    manifest = _read_manifest(root)
    if manifest is None:
        return "it is missing"
    for name, value in {"version": VERSION, **parameters}.items():
        if manifest.get(name) != value:
            return f"it was made with {name}={manifest.get(name)}, not {name}={value}"
    for name, digest in manifest["files"].items():
        try:
            found = _digest(root / name)
        except OSError:
            return f"{name} is missing"
        if found != digest:
            return f"{name} has changed"
    for picture in root.glob("images/*/*.png"):  # mmseg uses all pictures in a directory
        if (name := picture.relative_to(root).as_posix()) not in manifest["files"]:
            return f"{name} is not part of it"
    return None


def _replace(root: Path, parameters: dict, fault: str) -> None:
    _refuse_foreign(root)
    print_log(f"Making the digits sample in {root}: {fault}.", logger="current")
    new, old = (root.with_name(f".{root.name}.acon_mm-{state}") for state in ("new", "old"))
    for leftover in (new, old):  # from a process that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        _make(new, **parameters)
        if root.exists():
            root.rename(old)
        new.rename(root)
    finally:
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)


def _refuse_foreign(root: Path) -> None:
    if root.exists() and not root.is_dir():
        raise FileExistsError(f"{root} is not a directory: move it away or choose another data_root")
    manifest = _read_manifest(root)
    ours = set() if manifest is None else {MANIFEST, *manifest["files"]}
    present = (path for path in root.rglob("*") if path.is_symlink() or not path.is_dir())
    foreign = sorted({path.relative_to(root).as_posix() for path in present} - ours)
    if foreign:
        raise FileExistsError(
            f"the digits sample cannot be made in {root}: this would remove {len(foreign)} file(s) that are not part "
            f"of it, such as {foreign[0]!r}. Move them away or choose another data_root"
        )


def _make(root: Path, num_train: int, num_val: int, image_size: int, seed: int) -> None:
    maker = PictureMaker(seed, image_size)
    if maker.packages != PINNED:
        print_log(
            f"The digits sample is made with {_versions(maker.packages)}. Its pixels may differ from those on other "
            f"machines. For the same pixels, use the versions that acon_mm[sample] pins: {_versions(PINNED)}.",
            logger="current",
            level=logging.WARNING,
        )
    with tqdm(total=num_train + num_val, desc="digits sample", unit="picture") as progress:
        for split, count in strict_zip(SPLITS, (num_train, num_val)):
            _make_split(root, maker, split, count, progress)
    made = sorted(path for path in root.rglob("*") if path.is_file())
    manifest = {
        "made_by": MADE_BY,
        "version": VERSION,
        "num_train": num_train,
        "num_val": num_val,
        "image_size": image_size,
        "seed": seed,
        "packages": maker.packages,
        "files": {path.relative_to(root).as_posix(): _digest(path) for path in made},
    }
    (root / MANIFEST).write_text(json.dumps(manifest, indent=1))


def _make_split(root: Path, maker: PictureMaker, split: str, count: int, progress: tqdm) -> None:
    for folder in (f"images/{split}", f"labels/{split}", "annotations"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    images: list[dict] = []
    annotations: list[dict] = []
    for index in range(count):
        picture = maker.make(split, index)
        name = f"{index:06d}.png"
        Image.fromarray(picture.image).save(root / "images" / split / name)
        Image.fromarray(picture.labels).save(root / "labels" / split / name)
        images.append({"id": index, "file_name": name, "width": maker.image_size, "height": maker.image_size})
        # Ids start at 1, since pycocotools takes a match with annotation 0 for no match.
        for number, instance in enumerate(picture.instances, len(annotations) + 1):
            annotations.append({"id": number, "image_id": index, **instance})
        progress.update()
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, 1)]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(coco, separators=(",", ":")))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _versions(packages: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in packages.items())
