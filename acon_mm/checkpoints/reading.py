"""Reading checkpoints without running code in them.

A training checkpoint of MMEngine contains tensors and a log: `HistoryBuffer`s, NumPy arrays and NumPy numbers. With
`weights_only=True`, the default since PyTorch 2.6, PyTorch refuses the log. `allow_training_checkpoints` allows it, and
nothing else. Before 2.6, PyTorch takes no list of types by name, and `unpickler.py` reads the files.

The types and functions that such a file names must not be allowed themselves. A file could misuse them:

- `getattr`, by which pickle protocol 2 names the methods of `HistoryBuffer`, reaches any module;
- `numpy.dtype` takes its flags from the file, and `numpy.ndarray` its buffer. Both could declare that an array of bytes
  is an array of objects, and Python would then follow pointers that the file contains;
- `HistoryBuffer.__setstate__` copies functions from the file into a dictionary that all buffers share.

Each is replaced by a function or type of the same name that can only make the parts of a log.
"""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from os import PathLike
from typing import IO, Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from .. import compat
from ..errors import UserError
from . import unpickler

_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


class CheckpointError(UserError):
    """A checkpoint is missing, is damaged, contains code or does not fit the model."""


class DamagedError(CheckpointError):
    """A checkpoint cannot be read, or is none."""


def _number_dtype(code: str, *_: bool) -> np.dtype:
    """The built-in dtype of a number or boolean.

    Built-in dtypes are immutable. The flags and the byte order that a pickle sets afterwards have no effect. So arrays
    are read in the byte order of this machine.
    """
    if not (isinstance(code, str) and re.fullmatch(r"b1|[iufc]\d+", code)):
        raise pickle.UnpicklingError(f"Unsupported GLOBAL numpy.dtype({code})")
    return np.dtype(code)


class _Array(np.ndarray):
    """An array while it is read. It is empty first, and takes shape, dtype and content from the file once.

    A second time would free its memory, which a tensor may share by then.
    """

    def __new__(cls) -> _Array:
        return super().__new__(cls, (0,), np.int8)

    def __setstate__(self, state: tuple) -> None:
        if self.size:
            raise pickle.UnpicklingError("Unsupported GLOBAL numpy.ndarray filled twice")
        super().__setstate__(state)

    def __reduce__(self) -> str | tuple:  # it is saved as a plain array again
        return self.view(np.ndarray).__reduce__()


def _empty_array(*_: Any) -> _Array:
    return _Array()


class _LogBuffer(HistoryBuffer):
    """A `HistoryBuffer` while it is read. It takes its numbers from the file and nothing else."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        arrays = {key: np.array(state[key]) for key in ("_log_history", "_count_history")}
        super().__setstate__({"max_length": state["max_length"], **arrays})
        self.__class__ = HistoryBuffer


def _statistic(owner: type, name: str) -> Callable:
    """Replaces `getattr`, for the four methods that a `HistoryBuffer` has from the start."""
    if not (owner in (HistoryBuffer, _LogBuffer) and name in ("min", "max", "current", "mean")):
        raise pickle.UnpicklingError(f"Unsupported GLOBAL builtins.getattr({owner}, {name})")
    return getattr(HistoryBuffer, name)


_scalar = np.float64().__reduce__()[0]
_TRAINING_STATE: set[Any] = {
    (_LogBuffer, "mmengine.logging.history_buffer.HistoryBuffer"),
    (_statistic, "builtins.getattr"),
    (_number_dtype, "numpy.dtype"),
    (_Array, "numpy.ndarray"),
    # NumPy 2 renamed the module, and users have checkpoints of both versions.
    (_empty_array, "numpy.core.multiarray._reconstruct"),
    (_empty_array, "numpy._core.multiarray._reconstruct"),
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
    # No file names it, but PyTorch checks that the type of an object is allowed before it sets its state.
    _Array,
}
# For the same reason. Others may have allowed these as well.
_DTYPES = {type(np.dtype(code)) for code in "?bhilqBHILQefdgFDG"}
_dtypes_allowed_here: list[type] = []
_training_state_is_allowed = False


def allow_training_checkpoints() -> None:
    """Allow training checkpoints of MMEngine in the whole process; for `torch.load(weights_only=True)` from 2.6 on.

    `disallow_training_checkpoints` undoes this.
    """
    global _training_state_is_allowed
    _training_state_is_allowed = True
    if not compat.TAKES_ALLOWED_TYPES:
        return
    _dtypes_allowed_here.extend(_DTYPES.difference(torch.serialization.get_safe_globals()))
    torch.serialization.add_safe_globals([*_TRAINING_STATE, *_dtypes_allowed_here])


def disallow_training_checkpoints() -> None:
    """Undo `allow_training_checkpoints`. What others have allowed stays allowed."""
    global _training_state_is_allowed
    _training_state_is_allowed = False
    if not compat.TAKES_ALLOWED_TYPES:
        return
    ours = _TRAINING_STATE.union(_dtypes_allowed_here)
    others = [entry for entry in torch.serialization.get_safe_globals() if entry not in ours]
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(others)
    _dtypes_allowed_here.clear()


def read(file: str | PathLike | IO[bytes], map_location: Any = None, mmap: bool = False) -> Any:
    """``torch.load`` of tensors, plain data and (after `allow_training_checkpoints`) training state.

    Raises:
        pickle.UnpicklingError: the file asks for something else.
    """
    if compat.TAKES_ALLOWED_TYPES:
        return torch.load(file, map_location=map_location, weights_only=True, mmap=mmap)
    extra = {entry[1]: entry[0] for entry in _TRAINING_STATE if isinstance(entry, tuple)}
    # A PyTorch that is told to use its own reader takes no other.
    with _environment(_FORCE, None):
        return unpickler.load(file, map_location, extra if _training_state_is_allowed else {})


def load_checkpoint(path: str | PathLike) -> dict[str, Any]:
    """Read a local checkpoint to the CPU, without running code in it.

    Raises:
        CheckpointError: the file is missing or damaged, or does not contain a dictionary, or contains anything but
            tensors, plain data and (after `allow_training_checkpoints`) training state.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for
        raise CheckpointError(f"{path} is no checkpoint: it is not a file")
    try:
        # With a memory map, unused tensors are not read. Files of PyTorch < 1.6 cannot be mapped.
        mmap = zipfile.is_zipfile(path)
        if mmap:  # PyTorch does not check this
            with zipfile.ZipFile(path) as archive:
                # 0: saved without checksums, after torch.serialization.set_crc32_options(False)
                if (name := archive.testzip()) and archive.getinfo(name).CRC:
                    raise zipfile.BadZipFile(f"the checksum of {name} is wrong")
        checkpoint = read(path, map_location="cpu", mmap=mmap)
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint {path}") from None
    except Exception as error:  # a damaged pickle can raise anything
        raise explained(path, error) from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(
            f"{path} is not a checkpoint: it contains a {type(checkpoint).__name__}, not a dictionary"
        )
    if not isinstance(checkpoint.get("state_dict", {}), dict):
        raise CheckpointError(f"{path} has no weights: its state_dict is {checkpoint['state_dict']!r:.80}")
    return checkpoint


def not_finite(state_dict: Mapping[str, Any]) -> str:
    """The names of the tensors that hold a NaN, or an infinity in a weight or a statistic; '' if there is none."""

    def is_invalid(name: str, value: Any) -> bool:
        if not is_real(value) or value.isfinite().all():
            return False
        if name.endswith(("_extra_state", "beta_scale")):  # the module checks its own
            return False
        return bool(value.isnan().any()) or not name.endswith("mask")  # masks of attention hold -inf

    return listed([name for name, value in state_dict.items() if is_invalid(name, value)])


def is_real(value: Any) -> bool:
    """Whether this is a dense tensor of real numbers that PyTorch computes with: not of eight bits."""
    dense = isinstance(value, torch.Tensor) and value.layout is torch.strided and not value.is_meta
    return dense and value.is_floating_point() and torch.finfo(value.dtype).bits > 8


def listed(names: list[str]) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


@contextmanager
def weights_only() -> Iterator[None]:
    """Within this context, every `torch.load` uses `weights_only=True`, even if a loader asks for False.

    Raises:
        UserError: an environment variable turns `weights_only` off.
    """
    opt_out = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    if os.environ.get(opt_out, "").lower() in ("1", "y", "yes", "true"):
        raise UserError(f"{opt_out} is set, which lets a checkpoint run any code: unset it")
    with _environment(_FORCE, "1"), nullcontext() if compat.TAKES_ALLOWED_TYPES else _replaced_load():
        yield


@contextmanager
def _replaced_load() -> Iterator[None]:
    original = torch.load
    torch.load = lambda f, map_location=None, *args, **kwargs: read(f, map_location)  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.load = original


@contextmanager
def _environment(name: str, value: str | None) -> Iterator[None]:
    before = os.environ.pop(name, None)
    if value is not None:
        os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


def explained(path: str | PathLike, error: Exception) -> CheckpointError:
    """An error of `torch.load` in one line."""
    message = str(error)
    if isinstance(error, zipfile.BadZipFile):
        return DamagedError(f"checkpoint {path} is damaged: {message}")
    if asked_for := re.search(r"GLOBAL (\S.*?)(?= was not| whose|$)", message, re.MULTILINE):
        return CheckpointError(
            f"checkpoint {path} is refused: it asks for {asked_for[1]}. Only tensors, plain data and training state "
            "are read, because anything else may run code. Save its state_dict alone, where it was made"
        )
    reason = message.rpartition("WeightsUnpickler error:")[2].strip().partition("\n")[0].partition(". ")[0]
    return DamagedError(f"checkpoint {path} is damaged or not a checkpoint: {type(error).__name__} {reason}")
