"""The operators under the activations.

- ``functional.py``: the functional form of each activation
- ``backends.py``: the choice among the implementations of ACON-C: ``cpu.py`` (C++ in ``csrc/``), ``gpu.py`` (Triton in
  ``gpu_kernels.py``) and ``reference.py`` (plain PyTorch)
"""

from .backends import BACKENDS, backend_for

__all__ = ["BACKENDS", "backend_for"]
