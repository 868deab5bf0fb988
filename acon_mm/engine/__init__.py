"""What runs training and tests, beside mmengine's runner.

- ``command_line.py``: what the tools share
- ``devices.py``: what mmengine and mmcv lack on a machine without CUDA
- ``hooks.py``: hooks for ``default_hooks`` and ``custom_hooks``
"""

from . import devices  # registers its wrappers
from .hooks import LoadCheckHook

__all__ = ["LoadCheckHook", "devices"]
