"""Everything that importing :mod:`acon_mm` changes outside the package, except that it registers its own classes.

1. A PyTorch hook on module registration gives an ACON without ``num_channels`` its number of channels
   (:mod:`acon_mm.convert.channels`). Other modules are not touched.
2. The build functions of mmengine's ``MODELS`` registry and its children (mmdet's, mmseg's) are wrapped, so that
   ``act_cfg`` works on every module (:mod:`acon_mm.convert.registry`). Configs without it are built as before.
3. ``torch.load`` accepts the harmless types in mmengine's training checkpoints (:mod:`acon_mm.checkpoints.reading`).
4. ``Mish`` is registered as an activation, unless it is already there, so that ACON can be compared with it.
5. mmengine's functions that load checkpoints never run code from them, and they check and report what is loaded into a
   model with ACONs (:mod:`acon_mm.checkpoints.mmengine_loaders`). Models without ACONs are loaded as before, but a
   checkpoint with ACONs is an error there, and so is one with complex numbers or integers where the model has real
   numbers. A damaged download in PyTorch's cache is fetched again.
6. The maintained fork installs mmseg under another name than ``mmsegmentation``. There, mmengine finds the ``mmseg::``
   configs. Without this change it says that mmsegmentation is not installed.
7. mmengine's models drop the outputs of ACONs that their losses keep, and make them again in backward
   (:mod:`acon_mm.ops.memory`). The losses are as before. In a model with ACONs that is built from a config, each head
   gets a forward hook that does the same before the loss.
8. mmengine's counter of operations counts those inside ACONs (:mod:`acon_mm.ops.flop_counts`). Other models have the
   counts that they had.

One effect is not of the import, and ends by itself: while ``BFloat16OptimWrapper`` computes a step, mmcv's operators
accept bfloat16 on a CPU (:mod:`acon_mm.engine.devices`).

:func:`uninstall` undoes all eight and :func:`install` applies them again. Both may be called repeatedly.
"""

from collections.abc import Callable, Iterator
from functools import partial, wraps
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any

from mmengine.analysis import complexity_analysis
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.model import BaseModel
from mmengine.registry import MODELS, Registry
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from .checkpoints import mmengine_loaders, reading
from .checkpoints.acon_types import has_acons
from .checkpoints.requirements import remember_preprocessors
from .convert.channels import complete
from .convert.convert import complete_layouts
from .convert.registry import original_build, with_act_cfg
from .ops.flop_counts import HANDLERS
from .ops.memory import recompute_after_heads, recompute_outputs

_undo: list[Callable[[], Any]] = []


def install() -> None:
    """Apply the changes listed above."""
    if _undo:
        return
    for package in ("mmdet", "mmseg"):  # importing them makes their registries children of mmengine's
        if find_spec(package):
            import_module(f"{package}.registry")
    _undo.append(register_module_module_registration_hook(complete).remove)
    _wrap_build_functions()
    _undo.append(_unwrap_build_functions)
    reading.allow_training_checkpoints()
    _undo.append(reading.disallow_training_checkpoints)
    if "Mish" not in MODELS.module_dict:
        MODELS.register_module(module=nn.Mish)
        _undo.append(partial(MODELS.module_dict.pop, "Mish"))
    load_state_dict = mmengine_loaders.checked(mmengine_checkpoint.load_state_dict, is_installed)
    _replace(mmengine_checkpoint, "load_state_dict", load_state_dict)
    _replace(mmengine_checkpoint, "_load_checkpoint_with_prefix", mmengine_loaders.load_checkpoint_with_prefix)
    _replace(CheckpointLoader, "load_checkpoint", mmengine_loaders.without_code(CheckpointLoader.load_checkpoint))
    _replace(mmengine_checkpoint, "load_url", mmengine_loaders.fetched_again(mmengine_checkpoint.load_url))
    if hasattr(mmengine_checkpoint, "_safe_torch_load"):  # only the maintained fork has it
        _replace(mmengine_checkpoint, "_safe_torch_load", mmengine_loaders.load_file)
    _replace(BaseModel, "parse_losses", _with_recomputation(BaseModel.parse_losses))
    counted = complexity_analysis._DEFAULT_SUPPORTED_FLOP_OPS
    for operator in HANDLERS.keys() - counted.keys():
        counted[operator] = HANDLERS[operator]
        _undo.append(partial(counted.pop, operator))
    if find_spec("mmseg") and not _is_distribution(MODULE2PACKAGE["mmseg"]):
        _undo.append(partial(MODULE2PACKAGE.update, mmseg=MODULE2PACKAGE["mmseg"]))
        MODULE2PACKAGE["mmseg"] = "mmseg"  # a module's name works as well, and is how mmengine finds mmdet


def uninstall() -> None:
    """Undo :func:`install`."""
    while _undo:
        _undo.pop()()


def is_installed() -> bool:
    """Whether the changes are in force."""
    return bool(_undo)


def _replace(target: Any, name: str, new: Any) -> None:
    _undo.append(partial(setattr, target, name, vars(target)[name]))
    setattr(target, name, new)


def _with_recomputation(parse_losses: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(parse_losses)
    def parse(self: BaseModel, losses: dict[str, Any]) -> Any:
        total, logged = parse_losses(self, losses)
        recompute_outputs(total)
        return total, logged

    return parse


def _wrap_build_functions() -> None:
    for registry in _with_children(MODELS):
        registry.build_func = with_act_cfg(registry.build_func, _after_build, is_installed)


def _after_build(module: nn.Module) -> None:
    remember_preprocessors(module)
    if has_acons(module):
        complete_layouts(module)
        recompute_after_heads(module)


def _unwrap_build_functions() -> None:
    # All registries of now: one that was created after the wrapping has taken its parent's wrapped function.
    for registry in _with_children(MODELS):
        registry.build_func = original_build(registry.build_func)


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
