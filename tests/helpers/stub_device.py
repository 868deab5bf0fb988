"""The launches from C++ without a GPU: CPU tensors, a stand-in for CUDA's driver, and Triton's interpreter as device.

What runs is the real ``csrc/gpu*.cpp``: the choice of kernels and tiles, the packing of arguments, the cache of
kernels. It lasts as long as the process, so the tests that use it run in a process of their own
(``ops/test_launches_from_cpp.py``).
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import tempfile
import traceback
from pathlib import Path
from typing import NamedTuple

import torch

from acon_mm.compat import strict_zip

_POINTER_TYPES = {4: torch.int64, 5: torch.float16, 6: torch.float32, 15: torch.bfloat16}
_LAUNCH = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_uint,
    ctypes.c_uint,
    ctypes.c_uint,
    ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_void_p),
)


class Launched(NamedTuple):
    """A launch as the driver saw it."""

    kernel: str
    programs: int
    arguments: dict[str, object]
    constants: dict[str, int]


#: all launches so far
launches: list[Launched] = []
#: the kernels whose machine code C++ has asked for
compilations: list[dict] = []
_kept: list[object] = []


def _description(name: str, types: list[int], divisors: list[int], constants: list[int], warps: int, device: int):
    compilations.append(dict(name=name, types=types, divisors=divisors, constants=constants, warps=warps))
    return torch.frombuffer(bytearray(json.dumps(compilations[-1]).encode() + b"\0"), dtype=torch.uint8), name, 0


def _pointer(address: int | None, dtype: torch.dtype) -> torch.Tensor | None:
    if not address:
        return None
    return torch.frombuffer((ctypes.c_byte * 8).from_address(address), dtype=dtype)


def constants_of(told: dict) -> dict[str, int]:
    """The constants of a kernel that C++ has asked for, by name."""
    from acon_mm.ops import gpu_kernels

    names = [name for name in getattr(gpu_kernels, told["name"]).arg_names if name.isupper()]
    return dict(strict_zip(names, told["constants"]))


def _run(description: bytes, programs: int, threads: int, shared: int, stream: int, arguments) -> int:
    from acon_mm.ops import gpu_kernels

    try:
        told = json.loads(description)
        kernel = getattr(gpu_kernels, told["name"])
        assert threads == 32 * told["warps"] and not stream
        values: dict[str, object] = {}
        constants = constants_of(told)
        names = [n for n in kernel.arg_names if not n.isupper()]
        for index, (name, code, divisor) in enumerate(strict_zip(names, told["types"], told["divisors"])):
            place = arguments[index]
            if name.endswith("_pointer"):
                address = ctypes.c_void_p.from_address(place).value
                assert not divisor or not address or address % divisor == 0, name
                values[name] = _pointer(address, _POINTER_TYPES[code])
            elif code == ord("i"):
                values[name] = ctypes.c_int32.from_address(place).value
                assert not divisor or values[name] % divisor == 0, name
            else:
                assert code == ord("f"), name
                values[name] = ctypes.c_float.from_address(place).value
        # What follows are pointers to scratch memory that the kernels do not use.
        assert not any(ctypes.c_void_p.from_address(arguments[len(names) + i]).value for i in range(4))
        launches.append(Launched(told["name"], programs, values, constants))
        kernel[(programs,)](**values, **constants)
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def start() -> None:
    """From now on, CPU tensors are computed as those of a GPU."""
    os.environ["TRITON_INTERPRET"] = "1"
    directory = tempfile.mkdtemp()
    library = Path(directory, "libcuda.so.1")
    source = Path(__file__).with_name("stub_driver.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-w", "-Wl,-soname,libcuda.so.1", "-o", library, source], check=True)
    driver = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)  # dlopen finds it by its name
    callback = _LAUNCH(_run)
    driver.stub_set_launch(callback)
    from acon_mm.ops import operators

    operators.library.impl("gpu_kernel", _description, "CompositeExplicitAutograd")
    torch.ops.acon_mm.use_gpu_kernels("cpu")
    _kept.extend((driver, callback))
