"""Reading checkpoints without running code in them.

A training checkpoint of MMEngine holds, besides tensors, its log: `HistoryBuffer`s, NumPy arrays and NumPy numbers.
PyTorch's `weights_only=True`, its default since 2.6, refuses them. `allow_training_checkpoints` lets exactly these
through. It does not allow-list the globals that such a file names as they are, for they can be turned against the
reader:

- `getattr`, by which pickle protocol 2 spells the methods of `HistoryBuffer`, reaches any module;
- `numpy.dtype` takes its flags from the file, and `numpy.ndarray` its buffer: both make an array of bytes pass for
  one of objects, and Python then follows pointers out of the file;
- `HistoryBuffer.__setstate__` puts what the file says into a dictionary of functions that all buffers share.

Each is replaced by a stand-in of the same name that can only make what a log consists of.
"""

import os
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import PathLike
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from ..errors import UserError


class CheckpointError(UserError):
    """A checkpoint is missing, damaged, or asks for more than it may have."""


def _number_dtype(code: str, *_: bool) -> np.dtype:
    """The built-in dtype of a number or boolean.

    Built-in dtypes are immutable: the flags and the byte order that a pickle sets on them afterwards have no effect,
    so arrays are read in the byte order of this machine.
    """
    if not (isinstance(code, str) and re.fullmatch(r"b1|[iufc]\d+", code)):
        raise pickle.UnpicklingError(f"Unsupported GLOBAL numpy.dtype({code})")
    return np.dtype(code)


class _Array(np.ndarray):
    """An array that is read: it starts empty and takes shape, dtype and content from the file, once.

    Once, because a tensor may share its memory by then, and a second time would free it.
    """

    def __new__(cls) -> "_Array":
        return super().__new__(cls, (0,), np.int8)

    def __setstate__(self, state: tuple) -> None:
        if self.size:
            raise pickle.UnpicklingError("Unsupported GLOBAL numpy.ndarray filled twice")
        super().__setstate__(state)

    def __reduce__(self) -> tuple:  # so that it is saved again as the plain array that it was
        return self.view(np.ndarray).__reduce__()


def _empty_array(*_: Any) -> _Array:
    return _Array()


class _LogBuffer(HistoryBuffer):
    """A `HistoryBuffer` while it is read: takes its numbers from the file and nothing else."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        arrays = {key: np.array(state[key]) for key in ("_log_history", "_count_history")}
        super().__setstate__({"max_length": state["max_length"], **arrays})
        self.__class__ = HistoryBuffer


def _statistic(owner: type, name: str) -> Callable:
    """Stands for `getattr` and knows the four methods that a `HistoryBuffer` brings along."""
    if not (owner in (HistoryBuffer, _LogBuffer) and name in ("min", "max", "current", "mean")):
        raise pickle.UnpicklingError(f"Unsupported GLOBAL builtins.getattr({owner}, {name})")
    return getattr(HistoryBuffer, name)


_scalar = np.float64().__reduce__()[0]
_TRAINING_STATE = {
    (_LogBuffer, "mmengine.logging.history_buffer.HistoryBuffer"),
    (_statistic, "builtins.getattr"),
    (_number_dtype, "numpy.dtype"),
    (_Array, "numpy.ndarray"),
    # NumPy 2 renamed the module; checkpoints of both are around.
    (_empty_array, "numpy.core.multiarray._reconstruct"),
    (_empty_array, "numpy._core.multiarray._reconstruct"),
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
    # Named by no file, but PyTorch asks whether it may set state on what our functions have made.
    _Array,
}
# As are these, which others may have allowed as well.
_DTYPES = {type(np.dtype(code)) for code in "?bhilqBHILQefdgFDG"}
_dtypes_allowed_here: list[type] = []


def allow_training_checkpoints() -> None:
    """Let `torch.load(weights_only=True)`, for the whole process, read the training checkpoints of MMEngine.

    Undone by `disallow_training_checkpoints`.
    """
    _dtypes_allowed_here.extend(_DTYPES.difference(torch.serialization.get_safe_globals()))
    torch.serialization.add_safe_globals([*_TRAINING_STATE, *_dtypes_allowed_here])


def disallow_training_checkpoints() -> None:
    """Undo `allow_training_checkpoints`, and leave alone what others have allowed."""
    ours = _TRAINING_STATE.union(_dtypes_allowed_here)
    others = [entry for entry in torch.serialization.get_safe_globals() if entry not in ours]
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(others)
    _dtypes_allowed_here.clear()


def load_checkpoint(path: str | PathLike) -> dict[str, Any]:
    """Read a local checkpoint onto the CPU; code in it is not run.

    Raises:
        CheckpointError: the file is not there, is damaged, holds no dictionary, or asks for anything but tensors,
            plain data and (after `allow_training_checkpoints`) training state.
    """
    try:
        # Mapped into memory, tensors that nobody looks at are never read. Files of PyTorch < 1.6 have no such form.
        mmap = zipfile.is_zipfile(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint {path}") from None
    except Exception as error:  # a damaged pickle can raise anything
        raise explained(path, error) from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f"{path} is no checkpoint: it holds a {type(checkpoint).__name__}, not a dictionary")
    return checkpoint


@contextmanager
def weights_only() -> Iterator[None]:
    """Holds every `torch.load` to `weights_only=True`, as loaders exist that ask for False, or try it when True fails.

    Raises:
        UserError: the environment forbids it.
    """
    opt_out, force = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    if os.environ.get(opt_out, "").lower() in ("1", "y", "yes", "true"):
        raise UserError(f"{opt_out} is set, which lets a checkpoint run any code: unset it")
    before = os.environ.get(force)
    os.environ[force] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[force]
        else:
            os.environ[force] = before


def explained(path: str | PathLike, error: Exception) -> CheckpointError:
    """What went wrong in `torch.load`, in one line."""
    message = str(error)
    if asked_for := re.search(r"GLOBAL (\S.*?)(?= was not| whose|$)", message, re.MULTILINE):
        return CheckpointError(
            f"checkpoint {path} is refused: it asks for {asked_for[1]}. Only tensors, plain data and training "
            "state are read, as anything else may run code; save its state_dict alone where it was made"
        )
    reason = message.rpartition("WeightsUnpickler error:")[2].strip().partition("\n")[0].partition(". ")[0]
    return CheckpointError(f"checkpoint {path} is damaged or none: {type(error).__name__} {reason}")
