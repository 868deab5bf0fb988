"""The embedded sample. Importing this registers its datasets with mmdet and mmseg, as far as installed."""

from importlib.util import find_spec

if find_spec("mmdet"):
    from .detection import DigitsDetDataset  # noqa: F401
if find_spec("mmseg"):
    from .segmentation import DigitsSegDataset  # noqa: F401
