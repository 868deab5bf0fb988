"""Pictures of the embedded sample: handwritten digits on photographs, computed in integers only."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
from typing import NamedTuple

import numpy as np
from PIL import Image

SPLITS = ("train", "val")
CLASSES = tuple("0123456789")
PALETTE = [
    *((230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48)),
    *((145, 30, 180), (70, 240, 240), (240, 50, 230), (210, 245, 60), (170, 110, 40)),
]
IGNORE = 255

# Files in the wheels of scikit-image and scikit-learn. Nothing is downloaded.
PHOTOGRAPHS = (
    "skimage/data/astronaut.png",
    "skimage/data/brick.png",
    "skimage/data/camera.png",
    "skimage/data/chelsea.png",
    "skimage/data/coffee.png",
    "skimage/data/coins.png",
    "skimage/data/grass.png",
    "skimage/data/gravel.png",
    "skimage/data/ihc.png",
    "skimage/data/moon.png",
    "skimage/data/motorcycle_left.png",
    "skimage/data/rocket.jpg",
    "sklearn/datasets/images/china.jpg",
    "sklearn/datasets/images/flower.jpg",
)
# The versions that the `sample` extra pins. Other versions may give other pixels or other random numbers.
PINNED = {"numpy": "2.3.5", "pillow": "13.0.0", "scikit-image": "0.26.0", "scikit-learn": "1.9.1"}
DIGITS_PER_PICTURE = (2, 6)
MIN_CROP = 112  # pixels of the photograph; a smaller crop would be blurred when it is enlarged
TRIES = 100

# Opacity for each grey level of the enlarged digit: 0 below a quarter, full above five eighths.
OPACITY = np.clip((np.arange(256) - 64) * 255 // 96, 0, 255).astype(np.uint8)
SOLID = 128  # a pixel with at least this opacity belongs to the digit; other visible pixels are its rim
MIN_CONTRAST = 64  # difference in luma (0..255) between a digit and nine tenths of the pixels in its box


class Picture(NamedTuple):
    image: np.ndarray  # (size, size, 3) uint8, RGB
    labels: np.ndarray  # (size, size) uint8: 0 background, 1 + digit, 255 on the rim of a digit
    instances: list[dict]  # COCO annotations without their ids


class PictureMaker:
    """Makes the pictures. A picture depends on `seed`, its split and its index alone.

    The splits share no handwritten digit and no pixel of a photograph. `train` has four fifths of the digits and
    the left two thirds of each photograph, and `val` has the rest.

    Raises:
        ImportError: scikit-learn or scikit-image is missing.
    """

    def __init__(self, seed: int = 0, image_size: int = 160) -> None:
        try:
            import skimage  # noqa: F401  has most of the photographs
            import sklearn.datasets
        except ModuleNotFoundError as error:
            raise ImportError(
                "the digits sample is made from pictures in scikit-learn and scikit-image, and "
                f"{error.name!r} is missing: pip install scikit-learn scikit-image"
            ) from error
        self.packages = {name: importlib.metadata.version(name) for name in PINNED}
        self.seed, self.image_size = seed, image_size
        self.side_range = image_size // 8, image_size * 7 // 20

        digits = sklearn.datasets.load_digits()
        glyphs = digits.images.astype(np.int64) * 255 // 16
        self.glyphs = np.pad(glyphs, ((0, 0), (1, 1), (1, 1))).astype(np.uint8)  # a margin for the rim of the digit
        self.targets = digits.target.astype(np.int64)
        order = self._rng().permutation(len(glyphs))
        num_train = len(order) * 4 // 5
        self.pools = {"train": order[:num_train], "val": order[num_train:]}
        self.backdrops: dict[str, list[Image.Image]] = {split: [] for split in SPLITS}
        for name in PHOTOGRAPHS:
            package, path = name.split("/", 1)
            with (importlib.resources.files(package) / path).open("rb") as opened, Image.open(opened) as file:
                photo = file.convert("RGB")
            cut = photo.width * 2 // 3
            self.backdrops["train"].append(photo.crop((0, 0, cut, photo.height)))
            self.backdrops["val"].append(photo.crop((cut, 0, photo.width, photo.height)))

    def _rng(self, *place: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64([self.seed, *place]))

    def make(self, split: str, index: int) -> Picture:
        rng = self._rng(SPLITS.index(split), index)
        image = self._backdrop(rng, split)
        labels = np.zeros(image.shape[:2], np.uint8)
        owner = np.full(image.shape[:2], -1, np.int8)  # the digit that each pixel shows
        low, high = DIGITS_PER_PICTURE
        chosen = rng.choice(self.pools[split], size=rng.integers(low, high + 1), replace=False)
        boxes: list[tuple[int, int, int, int]] = []
        drawn: list[int] = []
        for sample in chosen:
            placed = self._place(rng, self.glyphs[sample], boxes)
            if placed is None:
                continue
            opacity, box = placed
            x0, y0, x1, y1 = box
            window = np.s_[y0:y1, x0:x1]
            solid = opacity >= SOLID
            image[window] = self._ink(rng, image[window], opacity)
            labels[window][(opacity > 0) & ~solid] = IGNORE
            labels[window][solid] = 1 + self.targets[sample]
            owner[window][solid] = len(drawn)
            boxes.append(box)
            drawn.append(int(sample))
        instances = [self._instance(owner == number, sample) for number, sample in enumerate(drawn)]
        return Picture(image, labels, instances)

    def _backdrop(self, rng: np.random.Generator, split: str) -> np.ndarray:
        photo = self.backdrops[split][rng.integers(len(self.backdrops[split]))]
        side = int(rng.integers(min(MIN_CROP, *photo.size), min(photo.size) + 1))
        x, y = (int(rng.integers(length - side + 1)) for length in photo.size)
        crop = photo.crop((x, y, x + side, y + side))
        crop = crop.resize((self.image_size, self.image_size), Image.Resampling.BICUBIC)
        array = np.array(crop)
        return array[:, ::-1].copy() if rng.integers(2) else array

    def _place(self, rng: np.random.Generator, glyph: np.ndarray, taken: list) -> tuple[np.ndarray, tuple] | None:
        """The opacity of the visible part of a digit, and its box. None if there is no room for it."""
        low, high = self.side_range
        for _ in range(TRIES):
            side = int(rng.integers(low, high + 1)) * 10 // 8  # 8 pixels of the digit, and one on each side
            big = Image.fromarray(glyph).resize((side, side), Image.Resampling.BICUBIC)
            opacity = OPACITY[np.array(big)]
            rows, columns = (np.flatnonzero(opacity.any(axis)) for axis in (1, 0))
            opacity = opacity[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            height, width = opacity.shape
            x, y = (int(rng.integers(self.image_size - length + 1)) for length in (width, height))
            box = (x, y, x + width, y + height)
            if not any(_crowd(box, other) for other in taken):
                return opacity, box
        return None

    def _ink(self, rng: np.random.Generator, under: np.ndarray, opacity: np.ndarray) -> np.ndarray:
        """The window with the digit in a random color of enough contrast. If none is found, in black or white."""
        levels = _luma(under.astype(np.int64))
        for _ in range(TRIES):
            color = rng.integers(256, size=3)
            distinct = np.count_nonzero(abs(levels - _luma(color)) >= MIN_CONTRAST)
            if distinct * 10 >= levels.size * 9:
                break
        else:
            color = np.full(3, 0 if levels.sum() > 127 * levels.size else 255)
        weight = opacity[..., None].astype(np.int64)
        return ((under * (255 - weight) + color * weight + 127) // 255).astype(np.uint8)

    def _instance(self, mask: np.ndarray, sample: int) -> dict:
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        x, y = int(columns[0]), int(rows[0])
        return {
            "category_id": int(self.targets[sample]) + 1,
            "bbox": [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y],
            "area": int(mask.sum()),
            "iscrowd": 0,
            "segmentation": _run_lengths(mask),
            "digit_index": sample,  # row of scikit-learn's load_digits
        }


def _luma(rgb: np.ndarray) -> np.ndarray:
    return (rgb * (299, 587, 114)).sum(-1) // 1000


def _crowd(a: tuple, b: tuple) -> bool:
    """Whether two boxes share more than a tenth of the smaller one. (IoU is low for a small box in a large one.)"""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return max(width, 0) * max(height, 0) * 10 > smaller


def _run_lengths(mask: np.ndarray) -> dict:
    """COCO's uncompressed RLE: the lengths of runs of zeros and ones in turn, column by column, zeros first."""
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat, prepend=False, append=not flat[-1]))
    return {"size": list(mask.shape), "counts": np.diff(edges, prepend=0).tolist()}
