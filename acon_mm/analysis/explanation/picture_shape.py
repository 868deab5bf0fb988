"""The height and width of the pictures that a config's model gets."""

from collections.abc import Iterator
from typing import Any

from mmengine.config import Config

from ...errors import UserError


def picture_shape(cfg: Config) -> tuple[int, int]:
    """Height and width: those that the data preprocessor makes, else those of the first ``Resize`` for testing.

    A ``Resize`` that keeps the ratio has a long and a short side: the picture is taken as wide, and padded as the
    data preprocessor does.

    Raises:
        UserError: the config has neither.
    """
    preprocessor = cfg.model.get("data_preprocessor") or {}
    if _is_pair(preprocessor.get("size")):
        height, width = preprocessor["size"]
        return height, width
    for loader in ("test_dataloader", "val_dataloader", "train_dataloader"):
        for scale, keeps_ratio in _resizes(cfg.get(loader)):
            width, height = sorted(scale, reverse=True) if keeps_ratio else scale
            divisor = preprocessor.get("pad_size_divisor", 1)
            return -(-height // divisor) * divisor, -(-width // divisor) * divisor
    raise UserError("the config does not say how large its pictures are: add --shape HEIGHT WIDTH")


def _resizes(node: Any) -> Iterator[tuple[tuple[int, int], bool]]:
    """The scale (width, height) of each ``Resize`` below ``node``, and whether it keeps the ratio."""
    if isinstance(node, dict):
        if str(node.get("type")).endswith("Resize") and _is_pair(node.get("scale")):
            yield tuple(node["scale"]), node.get("keep_ratio", False)
        for value in node.values():
            yield from _resizes(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _resizes(value)


def _is_pair(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(isinstance(each, int) for each in value)
