"""Parts of training and tests that mmengine's runner does not have.

- ``command_line.py``: the common code of the tools
- ``devices.py``: distributed runs, SyncBN and mixed precision on a machine without CUDA
- ``check_invalid.py``: stops a run at a NaN; ``data_checks.py``: stops it before data that has nothing to learn from
- ``resuming.py``: refuses to resume with another optimizer
- ``messages.py``: errors in one line, with their place in the config
- ``hooks.py``, ``monitor.py``: hooks for ``default_hooks`` and ``custom_hooks``
- ``optimizer.py``: weight decay and learning rate of ACON's parameters
"""

from . import devices  # registers its wrappers
from .check_invalid import CheckInvalidHook
from .hooks import LoadCheckHook
from .monitor import AconMonitorHook
from .optimizer import AconOptimWrapperConstructor

__all__ = ["AconMonitorHook", "AconOptimWrapperConstructor", "CheckInvalidHook", "LoadCheckHook", "devices"]
