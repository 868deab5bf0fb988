"""ACON activations for OpenMMLab: ``act_cfg=dict(type='MetaAconC')`` on any backbone, neck or head.

Importing the package registers the activations, and the wrappers for machines without CUDA (:mod:`acon_mm.cpu`), and
applies the effects that :mod:`acon_mm.effects` lists.
"""

from . import stack

stack.check()

from . import cpu, effects, functional  # noqa: E402
from .activations import AconA, AconB, AconC, AconFReLU, MetaAconC  # noqa: E402
from .switch import Report, convert_activations  # noqa: E402
from .version import __version__  # noqa: E402

effects.install()

__all__ = [
    "AconA",
    "AconB",
    "AconC",
    "AconFReLU",
    "MetaAconC",
    "Report",
    "__version__",
    "convert_activations",
    "cpu",
    "effects",
    "functional",
]
