"""mmengine's loaders, held to the rules of this package; :mod:`acon_mm.effects` installs it.

Every way of mmengine's leads through these three: `load_from`, resume, test, ``init_cfg=dict(type='Pretrained')`` and
``init_detector``. A model without ACON, given a checkpoint without a note, is loaded by the original functions.
"""

import pickle
from functools import wraps

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


def install() -> None:
    """Put the checked loaders in the place of mmengine's."""
    global _installed
    mmengine_checkpoint.load_state_dict = _load_state_dict
    mmengine_checkpoint._load_checkpoint_with_prefix = _load_checkpoint_with_prefix
    CheckpointLoader.load_checkpoint = _read
    _installed = True


def uninstall() -> None:
    """Undo :func:`install`."""
    global _installed
    mmengine_checkpoint.load_state_dict = _original["load_state_dict"]
    mmengine_checkpoint._load_checkpoint_with_prefix = _original["_load_checkpoint_with_prefix"]
    CheckpointLoader.load_checkpoint = _original["load_checkpoint"]
    _installed = False
