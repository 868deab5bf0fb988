"""Parts of training and tests that mmengine's runner does not have.

- ``command_line.py``: the common code of the tools
- ``devices.py``: distributed runs, SyncBN and mixed precision on a machine without CUDA
- ``hooks.py``: hooks for ``default_hooks`` and ``custom_hooks``
"""

from . import devices  # registers its wrappers
from .hooks import LoadCheckHook

__all__ = ["LoadCheckHook", "devices"]
