"""The C++ kernels for CPUs: ``torch.ops.acon_mm.acon_c``, built by ``setup.py`` out of ``csrc/``.

The library is named after the PyTorch that it was compiled against and is loaded with that one only. AVX-512, AVX2 or
the baseline is chosen when it runs, as PyTorch chooses for its own kernels; ``ATEN_CPU_CAPABILITY`` (``avx512``,
``avx2``, ``default``) forces one.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

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
    """Whether the kernels take ``x``, computing in ``compute_dtype``."""
    return _problem is None and x.device.type == "cpu" and _DTYPES.get(x.dtype) == compute_dtype


def acon_c(x: Tensor, p1: Tensor, p2: Tensor, beta: Tensor, channel_dim: int) -> Tensor:
    """ACON-C, equation 7; parameters are ``(C,)``, ``(N, C)`` or ``(N, 1)``. Differentiable twice."""
    return torch.ops.acon_mm.acon_c.default(x, p1, p2, beta, channel_dim)


def input_and_mean(x: Tensor, channel_dim: int) -> tuple[Tensor, Tensor]:
    """``x`` and its mean per sample and channel, ``(N, C)``.

    What uses the first in place of ``x`` lets backward add the mean's gradient in place to the other of ``x``.
    """
    return torch.ops.acon_mm.input_and_mean.default(x, channel_dim)


def meta_acon_c(
    x: Tensor,
    p1: Tensor,
    p2: Tensor,
    parameters: Sequence[Tensor],
    buffers: Sequence[Tensor],
    batch_statistics: bool,
    momentum: float,
    eps: float,
    beta_scale: float,
    channel_dim: int,
) -> Tensor:
    r"""Meta-ACON-C with the channel-wise generator, all at once. Differentiable twice.

    .. math::
        \beta = k\,\sigma(BN_2(fc_2(BN_1(fc_1(\mathrm{mean}(x)))))), \quad
        y = (p_1 - p_2)\,x\,\sigma(\beta (p_1 - p_2)\,x) + p_2\,x

    (arXiv 2009.04759, section 3.3 and equation 7.) With ``batch_statistics``, which take two samples, the norms move
    their running statistics as in training; otherwise these normalise.

    Args:
        parameters: weight and bias of fc1, bn1, fc2 and bn2, all float32 (float64 where ``x`` is); of fc1 and fc2
            where there are no norms.
        buffers: running mean, running variance and number of batches of bn1 and bn2, or none.
        beta_scale: :math:`k`.

    Shape:
        x ``(N, ..., C, ...)``, N > 0; p1 and p2 ``(C,)``; fc1's weight ``(H, C, 1, 1)``, fc2's ``(C, H, 1, 1)``, all
        else ``(H,)`` and ``(C,)``. The result is as ``x``.

    Raises:
        RuntimeError: another number of parameters or buffers, another shape or dtype of one, batch statistics of a
            single sample.
    """
    return torch.ops.acon_mm.meta_acon_c.default(
        x, p1, p2, parameters, buffers, batch_statistics, momentum, eps, beta_scale, channel_dim
    )


def instruction_set() -> str:
    """``'avx512'``, ``'avx2'`` or ``'baseline'``: the one that is in use."""
    return torch.ops.acon_mm.cpu_kernels().removesuffix("_table")


def _load() -> str | None:
    version = "_".join(torch.__version__.split("+")[0].split(".")[:2])
    here = Path(__file__).parent
    libraries = list(here.glob(f"_cpu_torch{version}.*"))
    if not libraries:
        others = ", ".join(path.name for path in here.glob("_cpu_torch*")) or "none"
        return (
            f"the kernels were not compiled for torch {torch.__version__} (there: {others}). With a C++ compiler: "
            "ACON_MM_KERNELS=1 pip install --no-build-isolation --no-deps --force-reinstall acon_mm"
        )
    try:
        torch.ops.load_library(libraries[0])
    except OSError as error:
        return f"{libraries[0].name} does not load: {error}"
    return None


_problem = _load()
