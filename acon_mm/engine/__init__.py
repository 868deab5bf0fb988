"""Parts of training and tests that mmengine's runner does not have.

- ``command_line.py``: the common code of the tools
- ``devices.py``: distributed runs, SyncBN and mixed precision on a machine without CUDA
- ``check_invalid.py``: stops a run at a NaN; ``data_checks.py``: stops it before data that has nothing to learn from
- ``hooks.py``: hooks for ``default_hooks`` and ``custom_hooks``
"""

from . import devices  # registers its wrappers
from .check_invalid import CheckInvalidHook
from .hooks import LoadCheckHook

__all__ = ["CheckInvalidHook", "LoadCheckHook", "devices"]
