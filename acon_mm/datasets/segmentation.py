"""The embedded sample for mmseg."""

from __future__ import annotations

from typing import Any

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from ..registering import register
from .digits import ensure_digits
from .pictures import CLASSES, PALETTE


@register(DATASETS)
class DigitsSegDataset(BaseSegDataset):
    """Handwritten digits on photographs, with label maps. The first use makes them in `data_root`.

    Label 0 is the background, label `d + 1` is the digit d, and the soft rim of a digit has the label 255, which is
    ignored. `sample` is the same as in `DigitsDetDataset`.
    """

    METAINFO = {"classes": ("background", *CLASSES), "palette": [(0, 0, 0), *PALETTE]}

    def __init__(
        self,
        *args: Any,
        data_root: str = "data/digits",
        img_suffix: str = ".png",
        sample: dict | None = None,
        **kwargs: Any,
    ) -> None:
        self.sample = sample or {}
        super().__init__(*args, data_root=data_root, img_suffix=img_suffix, **kwargs)

    def load_data_list(self) -> list[dict]:
        ensure_digits(self.data_root, **self.sample)
        return super().load_data_list()
