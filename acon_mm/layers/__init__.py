"""The ACON activations as modules, registered in mmengine's root ``MODELS``.

- ``acon.py``: ACON-A, ACON-B and ACON-C; ``meta_acon.py``: Meta-ACON-C; ``acon_frelu.py``: ACON-FReLU
- ``base.py``: what they share
- ``inner.py``: the convolutions and norms inside them
"""

from .acon import AconA, AconB, AconC
from .acon_frelu import AconFReLU
from .base import RELU_BETA, Acon
from .meta_acon import MetaAconC

__all__ = ["RELU_BETA", "Acon", "AconA", "AconB", "AconC", "AconFReLU", "MetaAconC"]
