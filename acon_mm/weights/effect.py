"""mmengine's loaders, held to the rules of this package; :mod:`acon_mm.effects` installs it.

Every way of mmengine's leads through these three (in the maintained fork, a fourth, which reads files): `load_from`,
resume, test, ``init_cfg=dict(type='Pretrained')`` and ``init_detector``. A model without ACON, given a checkpoint
without a note, is loaded by the original functions.
"""

import pickle
from functools import wraps
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

from .. import checkpoints
from . import loading, notes
from .kinds import acons_of

_original = {
    "load_state_dict": mmengine_checkpoint.load_state_dict,
    "_load_checkpoint_with_prefix": mmengine_checkpoint._load_checkpoint_with_prefix,
    "load_checkpoint": CheckpointLoader.__dict__["load_checkpoint"],
    "_safe_torch_load": getattr(mmengine_checkpoint, "_safe_torch_load", None),  # of the maintained fork
}
_installed = False


@wraps(_original["load_state_dict"])
def _load_state_dict(module: nn.Module, state_dict: dict, strict: bool = False, logger=None) -> None:
    # Who imported this name while it was installed still has it afterwards.
    if not _installed or not (acons_of(module) or notes.notes_in(state_dict)):
        return _original["load_state_dict"](module, state_dict, strict, logger)
    report = loading.load_state_dict(module, state_dict, strict=strict)
    print_log(str(report), logger="current", level=report.level)


@wraps(_original["_load_checkpoint_with_prefix"])
def _load_checkpoint_with_prefix(prefix: str, filename: str, map_location=None) -> dict:
    """As mmengine's, but what is below the prefix keeps its metadata."""
    checkpoint = CheckpointLoader.load_checkpoint(filename, map_location)
    return notes.below(checkpoint.get("state_dict", checkpoint), prefix.rstrip("."))


@classmethod
@wraps(CheckpointLoader.load_checkpoint.__func__)
def _read(cls, filename: str, map_location=None, logger="current") -> dict:
    """As mmengine's, for all kinds of places, but code in a checkpoint is never run."""
    with checkpoints.weights_only():
        try:
            return _original["load_checkpoint"].__func__(cls, filename, map_location, logger)
        except pickle.UnpicklingError as error:
            raise checkpoints.explained(filename, error) from error


def _load_file(file: Any, map_location=None, weights_only=None) -> Any:
    """``torch.load`` with the types that :mod:`acon_mm.checkpoints` allows.

    The fork's own allows ``getattr`` and NumPy's types as they are meanwhile, and then takes them off the list for all.
    """
    return torch.load(file, map_location=map_location, weights_only=True)


def install() -> None:
    """Put the checked loaders in the place of mmengine's."""
    global _installed
    mmengine_checkpoint.load_state_dict = _load_state_dict
    mmengine_checkpoint._load_checkpoint_with_prefix = _load_checkpoint_with_prefix
    CheckpointLoader.load_checkpoint = _read
    if _original["_safe_torch_load"] is not None:
        mmengine_checkpoint._safe_torch_load = _load_file
    _installed = True


def uninstall() -> None:
    """Undo :func:`install`."""
    global _installed
    mmengine_checkpoint.load_state_dict = _original["load_state_dict"]
    mmengine_checkpoint._load_checkpoint_with_prefix = _original["_load_checkpoint_with_prefix"]
    CheckpointLoader.load_checkpoint = _original["load_checkpoint"]
    if _original["_safe_torch_load"] is not None:
        mmengine_checkpoint._safe_torch_load = _original["_safe_torch_load"]
    _installed = False
