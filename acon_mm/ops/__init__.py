"""The operators under the activations.

- ``functional.py``: the function of each activation
- ``operators.py``: the operators ``torch.ops.acon_mm``; ``arguments.py``: the checks of their arguments
- ``backends.py``: which implementation serves which devices: ``cpu.py`` (C++ in ``csrc/``), ``gpu.py`` (Triton in
  ``gpu_kernels``) or ``reference.py`` (plain PyTorch)
- ``memory.py``: what an ACON made is made again in backward, and not kept
- ``generator.py``: the generator of Meta-ACON
"""

from .backends import backend_for

__all__ = ["backend_for"]
