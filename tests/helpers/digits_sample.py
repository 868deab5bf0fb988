"""A small digits sample: what it holds, and how a process of its own makes it."""

import hashlib
import json
from pathlib import Path
from threading import Barrier

import numpy as np
from PIL import Image

from acon_mm.datasets import digits

SMALL = {"num_train": 4, "num_val": 2}


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def content(root: Path) -> str:
    """A digest of all decoded pixels and annotations."""
    digest = hashlib.sha256()
    for path in sorted(root.glob("*/*/*.png")):
        digest.update(repr((path.relative_to(root).as_posix(), pixels(path).shape)).encode())
        digest.update(pixels(path).tobytes())
    for path in sorted(root.glob("annotations/*.json")):
        digest.update(json.dumps(json.loads(path.read_text()), sort_keys=True).encode())
    return digest.hexdigest()


def make_together(root: Path, barrier: Barrier) -> tuple[int, str]:
    """Wait for the other process, then ask for the sample: how often this process made it, and its content.

    It is here and not in a test file since a spawned process must be able to import it.
    """
    made = []
    make = digits._make
    digits._make = lambda *args, **kwargs: (made.append(1), make(*args, **kwargs))
    barrier.wait(timeout=120)
    digits.ensure_digits(root, **SMALL)
    return len(made), content(root)
