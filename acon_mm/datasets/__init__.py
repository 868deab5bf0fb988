"""The embedded sample. The import registers its datasets in mmdet and mmseg, where these are installed."""

from importlib.util import find_spec

if find_spec("mmdet"):
    from .detection import DigitsDetDataset  # noqa: F401
if find_spec("mmseg"):
    from .segmentation import DigitsSegDataset  # noqa: F401
