"""The operators under the activations.

- ``functional.py``: the function of each activation
- ``backends.py``: chooses among the implementations of ACON-C: ``cpu.py`` (C++ in ``csrc/``), ``gpu.py`` (Triton in
  ``gpu_kernels.py``) and ``reference.py`` (plain PyTorch)
- ``generator.py``: the generator of Meta-ACON
"""

from .backends import BACKENDS, backend_for

__all__ = ["BACKENDS", "backend_for"]
