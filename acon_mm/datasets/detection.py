"""The embedded sample for mmdet."""

from __future__ import annotations

from typing import Any

from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS

from ..registering import register
from .digits import ensure_digits
from .pictures import CLASSES, PALETTE


@register(DATASETS)
class DigitsDetDataset(CocoDataset):
    """Handwritten digits on photographs, with boxes and masks. The first use makes them in `data_root`.

    `sample` sets parameters of `ensure_digits`. Datasets with the same `data_root` must have the same `sample`.
    Otherwise each replaces the files of the other.
    """

    METAINFO = {"classes": CLASSES, "palette": PALETTE}

    def __init__(self, *args: Any, data_root: str = "data/digits", sample: dict | None = None, **kwargs: Any) -> None:
        self.sample = sample or {}
        super().__init__(*args, data_root=data_root, **kwargs)

    def load_data_list(self) -> list[dict]:
        ensure_digits(self.data_root, **self.sample)
        return super().load_data_list()
