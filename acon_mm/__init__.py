"""ACON activations for OpenMMLab: ``act_cfg=dict(type='MetaAconC')`` on any backbone, neck or head.

Importing the package registers the activations, a hook, and wrappers for machines without CUDA
(:mod:`acon_mm.engine`). It also makes the changes that :mod:`acon_mm.patches` lists.
"""

from . import dependencies

dependencies.check()

from . import engine, patches  # noqa: E402
from .convert import Report, convert_activations  # noqa: E402
from .layers import AconA, AconB, AconC, AconFReLU, MetaAconC  # noqa: E402
from .ops import functional  # noqa: E402
from .version import __version__  # noqa: E402

patches.install()

__all__ = [
    "AconA",
    "AconB",
    "AconC",
    "AconFReLU",
    "MetaAconC",
    "Report",
    "__version__",
    "convert_activations",
    "engine",
    "functional",
    "patches",
]
