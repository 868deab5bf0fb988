"""The C++ kernels for CPUs, as operators of PyTorch: ``torch.ops.acon_mm``. ``setup.py`` builds them from ``csrc/``.

The library's name has the version of PyTorch that it was compiled for, and only that version loads it. It holds kernels
for AVX-512, AVX2 and older processors, and chooses at run time as PyTorch does; ``ATEN_CPU_CAPABILITY`` (``avx512``,
``avx2``, ``default``) forces one.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import reference
from .generator import Generator, generate_beta

_DTYPES = {
    torch.float32: torch.float32,
    torch.float64: torch.float64,
    torch.bfloat16: torch.float32,
    torch.float16: torch.float32,
}


def problem() -> str | None:
    """Why the kernels cannot run here; None if they can."""
    return _problem


def serves(x: Tensor, compute_dtype: torch.dtype) -> bool:
    """Whether the kernels take ``x`` and compute in ``compute_dtype``."""
    return _problem is None and is_meant_for(x, compute_dtype)


def is_meant_for(x: Tensor, compute_dtype: torch.dtype) -> bool:
    """Whether :func:`serves` is true where the kernels are built."""
    return x.device.type == "cpu" and _DTYPES.get(x.dtype) == compute_dtype


def acon_c(x: Tensor, p1: Tensor, p2: Tensor, beta: Tensor, channel_dim: int) -> Tensor:
    r"""ACON-C: :math:`(p_1 - p_2)\,x\,\sigma(\beta (p_1 - p_2)\,x) + p_2\,x` (equation 7), twice differentiable.

    Shape:
        x ``(N, ..., C, ...)`` with C at ``channel_dim``; p1, p2 and beta ``(C,)``, ``(N, C)`` or ``(N, 1)``. The result
        is as ``x``.

    Raises:
        RuntimeError: another dtype of ``x`` than float32, float64, bfloat16 and float16, or another shape.
    """
    return torch.ops.acon_mm.acon_c.default(x, p1, p2, beta, channel_dim)


def input_and_mean(x: Tensor, channel_dim: int) -> tuple[Tensor, Tensor]:
    """``x`` and its mean per sample and channel, ``(N, C)``.

    Use the returned ``x`` in place of yours: backward can then add the gradient of the mean to that of ``x`` in place.
    """
    return torch.ops.acon_mm.input_and_mean.default(x, channel_dim)


def meta_acon_c(x: Tensor, p1: Tensor, p2: Tensor, generator: Generator, channel_dim: int) -> Tensor:
    r"""Meta-ACON-C with its channel-wise generator, in one operator, twice differentiable.

    .. math::
        \beta = k\,\sigma(BN_2(fc_2(BN_1(fc_1(\mathrm{mean}(x)))))), \quad
        y = (p_1 - p_2)\,x\,\sigma(\beta (p_1 - p_2)\,x) + p_2\,x

    (arXiv 2009.04759, section 3.3 and equation 7.) With batch statistics, the running statistics of the norms move as
    in training. All tensors of ``generator`` have the dtype of p1: float64 where ``x`` is float64, otherwise float32.

    Shape:
        x ``(N, ..., C, ...)``, N > 0, with C at ``channel_dim``; p1 and p2 ``(C,)``; ``generator``: see
        :class:`Generator`. The result is as ``x``.

    Raises:
        RuntimeError: one norm without the other, another shape or dtype of a tensor, no sample, or batch statistics of
            a single sample.
    """
    return torch.ops.acon_mm.meta_acon_c.default(x, p1, p2, *generator, channel_dim)


def instruction_set() -> str:
    """The instruction set in use: ``'avx512'``, ``'avx2'`` or ``'baseline'``."""
    return torch.ops.acon_mm.cpu_kernels().removesuffix("_table")


def _composed_meta_acon_c(x: Tensor, p1: Tensor, p2: Tensor, *generator_and_dim: Any) -> Tensor:
    *values, channel_dim = generator_and_dim
    beta = generate_beta(reference.spatial_mean(x, channel_dim), Generator(*values))
    return acon_c(x, p1, p2, beta, channel_dim)


def _load() -> str | None:
    version = "_".join(torch.__version__.split("+")[0].split(".")[:2])
    here = Path(__file__).parent
    libraries = list(here.glob(f"_cpu_torch{version}.*"))
    if not libraries:
        found = ", ".join(path.name for path in here.glob("_cpu_torch*")) or "none"
        checkout = here.parents[1]
        source = f"-e {checkout}" if (checkout / "setup.py").exists() else "--force-reinstall <where acon_mm is from>"
        return (
            f"the kernels were not compiled for torch {torch.__version__} (found: {found}). Compile them, with GCC or "
            f"Clang: ACON_MM_KERNELS=1 pip install --no-build-isolation --no-deps {source}"
        )
    try:
        torch.ops.load_library(libraries[0])
    except OSError as error:
        return f"{libraries[0].name} does not load: {error}"
    return None


_problem = _load()
if _problem is None:
    # C++ calls these for double backward, and for tensors without memory that kernels could read.
    _library = torch.library.Library("acon_mm", "IMPL")
    _library.impl("acon_c_backward_composed", reference.backward, "CompositeImplicitAutograd")
    _library.impl("meta_acon_c_composed", _composed_meta_acon_c, "CompositeImplicitAutograd")
