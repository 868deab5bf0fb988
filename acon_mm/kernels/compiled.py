"""The C++ kernels for CPUs: ``torch.ops.acon_mm.acon_c``, built by ``setup.py`` out of ``csrc/``.

The library is named after the PyTorch that it was compiled against and is loaded with that one only. AVX-512, AVX2 or
the baseline is chosen when it runs, as PyTorch chooses for its own kernels; ``ATEN_CPU_CAPABILITY`` (``avx512``,
``avx2``, ``default``) forces one.
"""

from pathlib import Path

import torch
from torch import Tensor

_DTYPES = {
    torch.float32: torch.float32,
    torch.float64: torch.float64,
    torch.bfloat16: torch.float32,
    torch.float16: torch.float32,
}

#: what :func:`generator_layer` takes
LAYER_DTYPES = (torch.float32, torch.float64)


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


def generator_layer(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    batch_statistics: bool = False,
    eps: float = 0.0,
    sigmoid_scale: float = 0.0,
) -> tuple[Tensor, ...]:
    r"""A layer of Meta-ACON's generator, made for few samples. Differentiable twice; float32 and float64.

    .. math::
        y = k\,\sigma(BN(x W^T + b))

    Without ``norm_weight`` there is no batch norm, without ``sigmoid_scale`` (:math:`k`) no sigmoid. With
    ``batch_statistics`` the norm takes those of the samples, of which it needs two, otherwise the running ones, which
    stay as they are in both cases.

    Shape:
        x ``(N, in)``, N > 0; weight ``(out, in)`` or ``(out, in, 1, 1)``; all others ``(out,)``

    Returns:
        y ``(N, out)``; then, for backward, what the norm takes in, its mean and its reciprocal standard deviation; then
        the unbiased variance of the samples. What there is not is empty.
    """
    return torch.ops.acon_mm.generator_layer.default(
        x, weight, bias, norm_weight, norm_bias, running_mean, running_var, batch_statistics, eps, sigmoid_scale
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
