"""The C++ kernels for CPUs, as operators of PyTorch: ``torch.ops.acon_mm``. ``setup.py`` builds them from ``csrc/``.

The library's name has the version of PyTorch that it was compiled for, and only that version loads it. It holds kernels
for AVX-512, AVX2 and older processors, and chooses at run time as PyTorch does; ``ATEN_CPU_CAPABILITY`` (``avx512``,
``avx2``, ``default``) forces one.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from torch import Tensor

from .generator import Generator

_problem: str | None = "they were not asked for"


def problem() -> str | None:
    """Why the kernels cannot run here; None if they can."""
    return _problem


def is_meant_for(x: Tensor, *parameters: Tensor) -> bool:
    """Whether the kernels take these tensors where they are built."""
    wide = x.dtype != torch.float64 and any(p.dtype == torch.float64 for p in parameters)
    return x.device.type == "cpu" and x.is_floating_point() and not wide


def meta_acon_c(
    x: Tensor, p1: Tensor, p2: Tensor, generator: Generator, channel_dim: int, inplace: bool = False
) -> Tensor:
    r"""Meta-ACON-C with its channel-wise generator, in one operator, twice differentiable.

    .. math::
        \beta = k\,\sigma(BN_2(fc_2(BN_1(fc_1(\mathrm{mean}(x)))))), \quad
        y = (p_1 - p_2)\,x\,\sigma(\beta (p_1 - p_2)\,x) + p_2\,x

    (arXiv 2009.04759, section 3.3 and equation 7.) With batch statistics, the running statistics of the norms move as
    in training. All tensors of ``generator`` have the dtype of p1: float64 where ``x`` is float64, otherwise float32.

    Shape:
        x ``(N, ..., C, ...)`` with C at ``channel_dim``; p1 and p2 ``(C,)``; ``generator``: see
        :class:`Generator`. The result is as ``x``.

    Raises:
        RuntimeError: one norm without the other, another shape, dtype or device of a tensor, or batch statistics of
            less than two samples.
    """
    operator = torch.ops.acon_mm.meta_acon_c_ if inplace else torch.ops.acon_mm.meta_acon_c
    return operator.default(x, p1, p2, *generator, channel_dim)


def instruction_set() -> str:
    """The instruction set in use: ``'avx512'``, ``'avx2'`` or ``'baseline'``."""
    return torch.ops.acon_mm.cpu_kernels().removesuffix("_table")


def load() -> None:
    """Load the library. It has the operators' implementations for CPUs and GPUs, and their autograd."""
    global _problem
    _problem = _load()


def _load() -> str | None:
    version = "_".join(torch.__version__.split("+")[0].split(".")[:2])
    here = Path(__file__).parent
    libraries = list(here.glob(f"_cpu_torch{version}.*"))
    if not libraries and sys.platform == "win32":
        return "there are none for Windows: use WSL, or Linux"
    if not libraries:
        found = ", ".join(path.name for path in here.glob("_cpu_torch*")) or "none"
        checkout = here.parents[1]
        source = f"-e {checkout}" if (checkout / "setup.py").exists() else "--no-cache-dir <where acon_mm is from>"
        compiler = "" if shutil.which("c++") else "install a C++ compiler (on Debian and Ubuntu: apt install g++), and "
        return (
            f"the kernels were not compiled for torch {torch.__version__} (found: {found}). To compile them, {compiler}"
            f"run: ACON_MM_KERNELS=1 pip install --force-reinstall --no-deps {source}"
        )
    try:
        torch.ops.load_library(libraries[0])
    except OSError as error:
        return f"{libraries[0].name} does not load: {error}"
    return None
