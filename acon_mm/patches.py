"""All that importing :mod:`acon_mm` changes outside of itself, besides registering its own classes.

1. A hook of PyTorch's on module registration tells an ACON without ``num_channels`` how many it has
   (:mod:`acon_mm.convert.channels`). Other modules are not touched.
2. The build functions of mmengine's ``MODELS`` registry and its children (mmdet's, mmseg's) are wrapped, so that
   ``act_cfg`` works on every module (:mod:`acon_mm.convert.registry`). Configs without it are built as before.
3. ``torch.load`` is allowed the inert types that mmengine's training checkpoints hold
   (:mod:`acon_mm.checkpoints.reading`).
4. ``Mish`` is registered, if nobody has, so that it can be compared with.
5. mmengine's loaders of checkpoints never run code, and check and report what goes into a model with ACONs
   (:mod:`acon_mm.checkpoints.mmengine_loaders`). Models without one are loaded as before.
6. Where mmseg is installed under another name than ``mmsegmentation``, as in the maintained fork, mmengine looks for
   ``mmseg::`` configs where mmseg is. Without that, it says that mmsegmentation is not installed.

:func:`uninstall` undoes all six, :func:`install` does them again; both may be called repeatedly.
"""

from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any

from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import MODELS, Registry
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from .checkpoints import mmengine_loaders, reading
from .checkpoints.requirements import remember_preprocessors
from .convert.channels import complete
from .convert.registry import with_act_cfg

_undo: list[Callable[[], Any]] = []


def install() -> None:
    """Apply the changes listed above."""
    if _undo:
        return
    _undo.append(register_module_module_registration_hook(complete).remove)
    for package in ("mmdet", "mmseg"):  # their registries become children of mmengine's when they are imported
        if find_spec(package):
            import_module(f"{package}.registry")
    for registry in _with_children(MODELS):
        _replace(registry, "build_func", with_act_cfg(registry.build_func, after_build=remember_preprocessors))
    reading.allow_training_checkpoints()
    _undo.append(reading.disallow_training_checkpoints)
    if "Mish" not in MODELS.module_dict:
        MODELS.register_module(module=nn.Mish)
        _undo.append(partial(MODELS.module_dict.pop, "Mish"))
    load_state_dict = mmengine_loaders.checked(mmengine_checkpoint.load_state_dict, is_installed)
    _replace(mmengine_checkpoint, "load_state_dict", load_state_dict)
    _replace(mmengine_checkpoint, "_load_checkpoint_with_prefix", mmengine_loaders.load_checkpoint_with_prefix)
    _replace(CheckpointLoader, "load_checkpoint", mmengine_loaders.without_code(CheckpointLoader.load_checkpoint))
    if hasattr(mmengine_checkpoint, "_safe_torch_load"):  # the maintained fork's
        _replace(mmengine_checkpoint, "_safe_torch_load", mmengine_loaders.load_file)
    if find_spec("mmseg") and not _is_distribution(MODULE2PACKAGE["mmseg"]):
        _undo.append(partial(MODULE2PACKAGE.update, mmseg=MODULE2PACKAGE["mmseg"]))
        MODULE2PACKAGE["mmseg"] = "mmseg"  # the module will do as well: that is how it finds mmdet's


def uninstall() -> None:
    """Undo :func:`install`."""
    while _undo:
        _undo.pop()()


def is_installed() -> bool:
    """Whether the changes are in force."""
    return bool(_undo)


def _replace(owner: Any, name: str, new: Any) -> None:
    _undo.append(partial(setattr, owner, name, vars(owner)[name]))
    setattr(owner, name, new)


def _with_children(registry: Registry) -> Iterator[Registry]:
    yield registry
    for child in registry.children.values():
        yield from _with_children(child)


def _is_distribution(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True
