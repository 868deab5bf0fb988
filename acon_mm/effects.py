"""All that importing :mod:`acon_mm` changes outside of itself, besides registering its own classes.

1. A hook of PyTorch's on module registration gives an ACON without width its width (:mod:`acon_mm.width`). Modules
   that are no ACON pass it untouched.
2. The build functions of mmengine's ``MODELS`` registry and its children (mmdet's, mmseg's) are wrapped, so that
   ``act_cfg`` works on every module (:mod:`acon_mm.switch.building`). Configs without it are built as before.
3. ``torch.load`` is allowed the inert types that mmengine's training checkpoints hold (:mod:`acon_mm.checkpoints`).
4. ``Mish`` is registered, if nobody has, so that it can be compared with.
5. mmengine's loaders of checkpoints never run code, and check and report what goes into a model with ACONs
   (:mod:`acon_mm.weights.effect`). Models without one are loaded as before.
6. Where mmseg is installed under another name than ``mmsegmentation``, as in the maintained fork, mmengine looks for
   ``mmseg::`` configs where mmseg is. Without that, it says that mmsegmentation is not installed.

:func:`uninstall` undoes all six, :func:`install` does them again; both may be called repeatedly.
"""

from functools import partial
from importlib import import_module, metadata
from importlib.util import find_spec

from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import MODELS
from torch import nn

from . import checkpoints, width
from .switch import building
from .weights import effect as weights_effect

_undo: list = []


def install() -> None:
    """Apply the effects listed above."""
    if _undo:
        return
    for package in ("mmdet", "mmseg"):  # their registries become children of mmengine's when they are imported
        if find_spec(package):
            import_module(f"{package}.registry")
    _undo.append(width.install().remove)
    building.install()
    _undo.append(building.uninstall)
    checkpoints.allow_training_checkpoints()
    _undo.append(checkpoints.disallow_training_checkpoints)
    weights_effect.install()
    _undo.append(weights_effect.uninstall)
    if "Mish" not in MODELS.module_dict:
        MODELS.register_module(module=nn.Mish)
        _undo.append(lambda: MODELS.module_dict.pop("Mish"))
    if find_spec("mmseg") and not _is_distribution(MODULE2PACKAGE["mmseg"]):
        _undo.append(partial(MODULE2PACKAGE.update, mmseg=MODULE2PACKAGE["mmseg"]))
        MODULE2PACKAGE["mmseg"] = "mmseg"  # the module will do as well: that is how it finds mmdet's


def _is_distribution(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def uninstall() -> None:
    """Undo :func:`install`."""
    while _undo:
        _undo.pop()()
