"""The embedded sample for mmdet."""

from __future__ import annotations

from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS

from .digits import ensure_digits
from .pictures import CLASSES, PALETTE


@DATASETS.register_module()
class DigitsDetDataset(CocoDataset):
    """Handwritten digits on photographs, with boxes and masks; made in `data_root` when first loaded.

    `sample` overrides parameters of `ensure_digits`. Datasets that share a `data_root` must agree on it, or each
    replaces what the other made.
    """

    #: tells the tools not to look for files before the dataset is built
    makes_own_data = True
    METAINFO = {"classes": CLASSES, "palette": PALETTE}

    def __init__(self, *args, data_root: str = "data/digits", sample: dict | None = None, **kwargs) -> None:
        self.sample = sample or {}
        super().__init__(*args, data_root=data_root, **kwargs)

    def load_data_list(self) -> list[dict]:
        ensure_digits(self.data_root, **self.sample)
        return super().load_data_list()
