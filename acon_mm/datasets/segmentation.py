"""The embedded sample for mmseg."""

from __future__ import annotations

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from .digits import ensure_digits
from .pictures import CLASSES, PALETTE


@DATASETS.register_module()
class DigitsSegDataset(BaseSegDataset):
    """Handwritten digits on photographs, with label maps; made in `data_root` when first loaded.

    Label 0 is the background and `d + 1` the digit d; the soft rim of a digit is 255, which is ignored.
    `sample` is that of `DigitsDetDataset`.
    """

    #: tells the tools not to look for files before the dataset is built
    makes_own_data = True
    METAINFO = {"classes": ("background", *CLASSES), "palette": [(0, 0, 0), *PALETTE]}

    def __init__(
        self,
        *args,
        data_root: str = "data/digits",
        img_suffix: str = ".png",
        sample: dict | None = None,
        **kwargs,
    ) -> None:
        self.sample = sample or {}
        super().__init__(*args, data_root=data_root, img_suffix=img_suffix, **kwargs)

    def load_data_list(self) -> list[dict]:
        ensure_digits(self.data_root, **self.sample)
        return super().load_data_list()
