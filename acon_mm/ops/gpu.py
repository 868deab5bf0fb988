"""The Triton kernels for GPUs: whether they can run here, and their machine code for the launches from C++.

With the compiled library, ``csrc/gpu.cpp`` launches them; a call then costs as much as one of PyTorch's own operators.
Without it, or with a Triton before 3.3, or on AMD's GPUs, ``gpu_launches.py`` launches them from Python. With
``ACON_MM_BACKEND=triton`` and ``TRITON_INTERPRET=1``, they run on a CPU.
"""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from ..compat import strict_zip

#: the dtypes of tensors, by their codes in C++ (c10::ScalarType)
_POINTERS = {4: "*i64", 5: "*fp16", 6: "*fp32", 15: "*bf16"}
_NUMBERS = {ord("i"): "i32", ord("f"): "fp32"}


def interpreted() -> bool:
    """Whether Triton's interpreter, which Triton 2.0 does not have, runs the kernels on a CPU."""
    wanted = os.environ.get("TRITON_INTERPRET") == "1" and os.environ.get("ACON_MM_BACKEND") == "triton"
    return wanted and find_spec("triton") is not None and find_spec("triton.runtime.interpreter") is not None


def problem() -> str | None:
    """Why the kernels cannot run here; None if they can."""
    if find_spec("triton") is None:
        return "triton is not installed: pip install triton"
    if not torch.cuda.is_available() and not interpreted():
        return "there is no CUDA device (TRITON_INTERPRET=1 runs the kernels on a CPU, slowly)"
    return None


def launches_from_cpp() -> bool:
    """Whether C++ can launch the kernels: by CUDA's driver, with a Triton that compiles ahead as 3.3 and later do."""
    try:
        major, minor = version("triton").split(".")[:2]
    except PackageNotFoundError:
        return False
    return torch.version.cuda is not None and (int(major), int(minor)) >= (3, 3)


def machine_code(
    name: str, types: list[int], divisors: list[int], constants: list[int], warps: int, device: int
) -> tuple[Tensor, str, int]:
    """The machine code of a kernel for a device, the name of its function, and the bytes of shared memory it needs.

    ``types`` and ``divisors`` describe its arguments, ``constants`` are the values of those in capitals
    (``csrc/gpu_launch.h``).
    """
    from triton.backends.compiler import GPUTarget

    major, minor = torch.cuda.get_device_capability(device)
    compiled = compile_ahead(name, types, divisors, constants, warps, GPUTarget("cuda", 10 * major + minor, 32))
    code = torch.frombuffer(bytearray(compiled.asm["cubin"]), dtype=torch.uint8)
    return code, compiled.metadata.name, compiled.metadata.shared


def compile_ahead(
    name: str, types: list[int], divisors: list[int], constants: list[int], warps: int, target: Any
) -> Any:
    """Triton's result for a kernel; no device is needed."""
    from triton.compiler import ASTSource, compile

    from . import gpu_kernels

    kernel: Any = getattr(gpu_kernels, name)
    signature, alignment = {}, {}
    arguments, values = iter(strict_zip(types, divisors)), iter(constants)
    chosen = {}
    for index, argument in enumerate(kernel.arg_names):
        if argument.isupper():
            signature[argument] = "constexpr"
            chosen[argument] = next(values)
            continue
        code, divisor = next(arguments)
        pointer = argument.endswith("_pointer")
        signature[argument] = _POINTERS[code] if pointer else _NUMBERS[code]
        if divisor > 1:
            alignment[(index,)] = [["tt.divisibility", divisor]]
    source = ASTSource(kernel, signature, constexprs=chosen, attrs=alignment)
    return compile(source, target=target, options={"num_warps": warps})
