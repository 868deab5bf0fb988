"""Reading checkpoints without running code, where PyTorch takes no list of allowed types (before 2.6).

:class:`Unpickler` takes the instructions of pickle that make plain data. The dangerous ones are our own: names come
from a list, only what is on the list is called, and state is set on few types. ``torch.load`` itself finds the tensors
and gets this class as its ``pickle_module``.
"""

from __future__ import annotations

import _compat_pickle
import codecs
import os
import pickle
import tarfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from functools import cache
from pickle import UnpicklingError
from types import SimpleNamespace
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor, nn

_PLAIN = (
    "PROTO STOP MARK POP POP_MARK TUPLE EMPTY_TUPLE TUPLE1 TUPLE2 TUPLE3 NONE NEWTRUE NEWFALSE EMPTY_LIST EMPTY_DICT "
    "EMPTY_SET INT BININT BININT1 BININT2 LONG LONG1 FLOAT BINFLOAT BINUNICODE SHORT_BINUNICODE BINSTRING "
    "SHORT_BINSTRING BINBYTES SHORT_BINBYTES GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE FRAME GLOBAL"
)
"""The instructions that only make plain data. GLOBAL asks `find_class`."""

_REBUILD = (
    "_rebuild_tensor",
    "_rebuild_tensor_v2",
    "_rebuild_parameter",
    "_rebuild_parameter_with_state",
    "_rebuild_sparse_tensor",
    "_rebuild_meta_tensor_no_storage",
    "_rebuild_qtensor",
)


def _with_attributes(function: Any, new_type: Any, arguments: Any, state: Any) -> Any:
    """Replaces PyTorch's function, which would call any function and set attributes on anything."""
    if function not in _rebuild_functions() or new_type not in (Tensor, nn.Parameter):
        raise UnpicklingError(f"Unsupported GLOBAL torch._tensor._rebuild_from_type_v2({function}, {new_type})")
    return torch._tensor._rebuild_from_type_v2(function, new_type, arguments, state)


def _encoded(text: Any, encoding: Any) -> bytes:
    """Replaces `codecs.encode`, which is how protocol 2 writes bytes and which may import a codec."""
    if type(text) is not str or encoding != "latin1":
        raise UnpicklingError(f"Unsupported GLOBAL _codecs.encode({text!r:.40}, {encoding!r:.40})")
    return codecs.latin_1_encode(text)[0]


@cache
def _rebuild_functions() -> tuple[Callable, ...]:
    return tuple(getattr(torch._utils, name) for name in _REBUILD if hasattr(torch._utils, name))


@cache
def _allowed() -> tuple[dict[str, Any], dict[str, Any]]:
    """What a file may call, and what it may only name: types of tensors and plain data, as in PyTorch's own list."""
    called: dict[str, Any] = {
        "collections.OrderedDict": OrderedDict,
        "collections.Counter": Counter,
        "builtins.set": set,
        "builtins.complex": complex,
        "builtins.bytearray": bytearray,
        "_codecs.encode": _encoded,
        "torch.Size": torch.Size,
        "torch.device": torch.device,
        "torch.serialization._get_layout": torch.serialization._get_layout,
        "torch._tensor._rebuild_from_type_v2": _with_attributes,
        **{f"torch._utils.{function.__name__}": function for function in _rebuild_functions()},
    }
    values = [getattr(torch, name) for name in dir(torch)]
    named: dict[str, Any] = {
        "torch.Tensor": Tensor,
        "torch.nn.parameter.Parameter": nn.Parameter,
        **{str(value): value for value in values if isinstance(value, (torch.dtype, torch.qscheme))},
        **{f"{each.__module__}.{each.__name__}": each for each in torch._storage_classes},
    }
    return called, named


def _is_in(value: Any, *lists: dict[str, Any]) -> bool:
    return any(value is each for allowed in lists for each in allowed.values())


_Base: Any = vars(pickle)["_Unpickler"]  # Python's own in Python, with a method for each instruction


class Unpickler(_Base):
    """Makes plain data, tensors, and what ``extra`` names. Everything else is a `pickle.UnpicklingError`."""

    #: more that a file may name, by its name there
    extra: dict[str, Any] = {}
    dispatch = {code: _Base.dispatch[code] for name in _PLAIN.split() for code in getattr(pickle, name)}

    def find_class(self, module: str, name: str) -> Any:
        module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))  # of Python 2
        full = f"{_compat_pickle.IMPORT_MAPPING.get(module, module)}.{name}"
        for allowed in (self.extra, *_allowed()):
            if full in allowed:
                return allowed[full]
        raise UnpicklingError(f"Unsupported GLOBAL {full.removeprefix('builtins.')} was not allowed")

    def _reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack[-1]
        if not _is_in(function, self.extra, _allowed()[0]) or type(arguments) is not tuple:
            raise UnpicklingError(f"Unsupported GLOBAL {function!r:.80} was not allowed to be called")
        self.stack[-1] = function(*arguments)

    def _new(self) -> None:
        arguments, new_type = self.stack.pop(), self.stack[-1]
        is_type = new_type is OrderedDict or (isinstance(new_type, type) and _is_in(new_type, self.extra))
        if not is_type or type(arguments) is not tuple:
            raise UnpicklingError(f"Unsupported GLOBAL {new_type!r:.80} was not allowed to be made")
        self.stack[-1] = new_type.__new__(new_type, *arguments)

    def _build(self) -> None:
        state, built = self.stack.pop(), self.stack[-1]
        if type(built) is OrderedDict and type(state) is dict:
            vars(built).update(state)  # `_metadata` of a state dict
        elif _is_in(type(built), self.extra):
            built.__setstate__(state)
        elif isinstance(built, np.dtype):
            pass  # a built-in one, which does not change
        else:
            raise UnpicklingError(f"Unsupported GLOBAL {type(built)!r:.80} was not allowed to be set")

    def _append(self) -> None:
        self._extend([self.stack.pop()])

    def _appends(self) -> None:
        self._extend(self.pop_mark())

    def _extend(self, items: list) -> None:
        if type(self.stack[-1]) is not list:
            raise UnpicklingError(f"items for a {type(self.stack[-1])}")
        self.stack[-1].extend(items)

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key, value])

    def _set_items(self) -> None:
        self._update(self.pop_mark())

    def _update(self, items: list) -> None:
        if type(self.stack[-1]) not in (dict, OrderedDict, Counter):
            raise UnpicklingError(f"keys for a {type(self.stack[-1])}")
        for key, value in zip(items[::2], items[1::2]):
            self.stack[-1][key] = value

    def _add_items(self) -> None:
        items = self.pop_mark()
        if type(self.stack[-1]) is not set:
            raise UnpicklingError(f"items for a {type(self.stack[-1])}")
        self.stack[-1].update(items)

    def _storage(self) -> None:
        key = self.stack.pop()
        kind = key[0] if type(key) is tuple and key else None
        if kind not in ("storage", b"storage"):
            raise UnpicklingError(f"Unsupported GLOBAL of a persistent {kind!r:.80}")
        self.append(self.persistent_load(key))

    def _name(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise UnpicklingError("a name that is no text")
        self.append(self.find_class(module, name))

    dispatch |= {
        pickle.REDUCE[0]: _reduce,
        pickle.NEWOBJ[0]: _new,
        pickle.BUILD[0]: _build,
        pickle.APPEND[0]: _append,
        pickle.APPENDS[0]: _appends,
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_items,
        pickle.ADDITEMS[0]: _add_items,
        pickle.BINPERSID[0]: _storage,
        pickle.STACK_GLOBAL[0]: _name,
    }


def load(file: str | os.PathLike | IO[bytes], map_location: Any, extra: dict[str, Any]) -> Any:
    """``torch.load`` by :class:`Unpickler`; ``extra`` is what a file may name and call besides, by name.

    Raises:
        pickle.UnpicklingError: the file asks for something else, or it is an archive of TorchScript or tar, which
            PyTorch would read in other ways.
    """

    class Reader(Unpickler):
        pass

    Reader.extra = extra

    def load_one(opened: IO[bytes], **kwargs: Any) -> Any:
        return Reader(opened, **kwargs).load()

    with torch.serialization._open_file_like(file, "rb") as opened:
        start = opened.tell()
        if torch.serialization._is_zipfile(opened):
            with torch.serialization._open_zipfile_reader(opened) as archive:
                if torch.serialization._is_torchscript_zip(archive):
                    raise UnpicklingError("Unsupported GLOBAL TorchScript was not allowed")
        elif tarfile.is_tarfile(opened):
            raise UnpicklingError("Unsupported GLOBAL tar, a format of PyTorch before 0.1.10, was not allowed")
        opened.seek(start)
        module = SimpleNamespace(__name__=__name__, Unpickler=Reader, load=load_one)
        return torch.serialization.load(opened, map_location, module, weights_only=False)
