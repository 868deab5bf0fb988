"""The functions that :mod:`acon_mm.patches` installs as mmengine's loaders of checkpoints.

All loads of mmengine use these functions: ``load_from``, resume, test, ``init_cfg=dict(type='Pretrained')`` and
``init_detector``. :func:`load_file` is of the maintained fork alone. A model without ACON is loaded by mmengine's own
function, unless the checkpoint has requirements or ACONs.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from mmengine.logging import print_log
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

from . import loading, reading, requirements
from .acon_types import acon_types_by_place, has_acons


def checked(original: Callable, is_active: Callable[[], bool]) -> Callable:
    """mmengine's ``load_state_dict``, which checks and reports loads into models with ACONs.

    Args:
        original: mmengine's function, for all other models.
        is_active: whether to check. A module that imported the new function by name still has it after
            :func:`acon_mm.patches.uninstall`.
    """

    @wraps(original)
    def load_state_dict(module: nn.Module, state_dict: dict, strict: bool = False, logger: Any = None) -> None:
        checks = has_acons(module) or requirements.requirements_in(state_dict) or _has_other_acons(state_dict, module)
        if not is_active():
            return original(module, state_dict, strict, logger)
        loading.check_numbers(module, state_dict)
        if not checks:
            return original(module, state_dict, strict, logger)
        report = loading.load_state_dict(module, state_dict, strict=strict)
        print_log(str(report), logger="current", level=report.level)

    return load_state_dict


def _has_other_acons(state_dict: dict, module: nn.Module) -> bool:
    """Whether the weights are of a network with ACONs that the model does not have, whoever wrote them."""
    names = acon_types_by_place(state_dict)
    return bool(names) and not names.keys() <= dict(module.named_modules()).keys()


def load_checkpoint_with_prefix(prefix: str, filename: str, map_location: Any = None) -> dict:
    """mmengine's function of this name, which keeps the metadata of what lies below the prefix."""
    checkpoint = CheckpointLoader.load_checkpoint(filename, map_location)
    return requirements.state_dict_below(checkpoint.get("state_dict", checkpoint), prefix.rstrip("."))


def without_code(original: Any) -> classmethod:
    """mmengine's ``CheckpointLoader.load_checkpoint``, which never runs code in a checkpoint, wherever it is from."""

    @wraps(original)
    def load_checkpoint(cls: type, filename: str, map_location: Any = None, logger: Any = "current") -> dict:
        with reading.weights_only():
            try:
                return original.__func__(cls, filename, map_location, logger)
            except pickle.UnpicklingError as error:
                raise reading.explained(filename, error) from error

    return classmethod(load_checkpoint)


def fetched_again(load_url: Callable) -> Callable:
    """PyTorch's ``load_url``, which would read a truncated download from its cache each time. It is fetched again."""

    @wraps(load_url)
    def load(url: str, model_dir: str | None = None, **kwargs: Any) -> Any:
        path = Path(model_dir or Path(torch.hub.get_dir(), "checkpoints"), Path(urlparse(url).path).name)
        if path.exists():
            try:
                reading.load_checkpoint(path)
            except reading.DamagedError as error:
                print_log(f"{error}. It is removed and fetched again from {url}", "current", logging.WARNING)
                path.unlink()
            except reading.CheckpointError:
                pass  # the load itself tells what is wrong
        return load_url(url, model_dir=model_dir, **kwargs)

    return load


def load_file(file: Any, map_location: Any = None, weights_only: bool | None = None) -> Any:
    """``torch.load`` with the types that :mod:`acon_mm.checkpoints.reading` allows.

    The fork's own function allows the original ``getattr`` and NumPy types while it loads. Afterwards it removes them
    from the list of allowed types, even those that others had put there.
    """
    return reading.read(file, map_location)
