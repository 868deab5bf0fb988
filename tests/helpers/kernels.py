"""Meta-ACON in one operator, beside the same out of PyTorch's functions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from acon_mm.compat import strict_zip
from acon_mm.ops import cpu
from acon_mm.ops.generator import Generator

from .exactness import exact

NEEDS_COMPILED = pytest.mark.skipif(cpu.problem() is not None, reason=str(cpu.problem()))
#: no norms; norms that use the statistics of the samples; norms that use running statistics
NORMS = ("none", "batch", "running")
BETA_SCALE = 2.5


def meta_inputs(shape: tuple[int, ...], hidden: int, norm: str, dtype: torch.dtype) -> tuple[list[Tensor], Generator]:
    """x, p1 and p2, and a generator; all in a dtype, those that are learned with gradients."""
    channels = shape[1]
    # The means of the samples differ, since a norm of the batch divides by their differences.
    x = torch.randn(shape) + torch.randn(shape[0], channels, *[1] * (len(shape) - 2))
    values = dict.fromkeys(Generator._fields)
    for number, inputs, outputs in ((1, channels, hidden), (2, hidden, channels)):
        values[f"fc{number}_weight"] = torch.randn(outputs, inputs, 1, 1) / inputs**0.5
        values[f"fc{number}_bias"] = torch.randn(outputs)
        if norm != "none":
            values[f"bn{number}_weight"], values[f"bn{number}_bias"] = torch.randn(outputs), torch.randn(outputs)
            values[f"bn{number}_running_mean"] = torch.randn(outputs)
            values[f"bn{number}_running_var"] = torch.rand(outputs) + 0.5
            values[f"bn{number}_num_batches_tracked"] = torch.tensor(3)
    values |= dict(batch_statistics=norm == "batch", momentum=0.1, eps=1e-5, beta_scale=BETA_SCALE)
    tensors = [x, torch.randn(channels), torch.randn(channels)]
    return to(tensors, Generator(**values), dtype)


def to(tensors: list[Tensor], generator: Generator, target: torch.dtype | str) -> tuple[list[Tensor], Generator]:
    """Copies in another dtype or on another device."""

    def copy(t: Tensor) -> Tensor:
        copied = t.detach().clone()
        return copied.to(target) if t.is_floating_point() or isinstance(target, str) else copied

    copies = {name: copy(value) if isinstance(value, Tensor) else value for name, value in generator._asdict().items()}
    tensors, generator = [copy(t) for t in tensors], Generator(**copies)
    for t in (*tensors, *generator.learned()):
        t.requires_grad_()
    return tensors, generator


def with_learned(generator: Generator, learned: tuple[Tensor, ...]) -> Generator:
    """The generator with other tensors in place of those that ``learned()`` returns."""
    places = {id(t): name for name, t in generator._asdict().items()}
    names = [places[id(t)] for t in generator.learned()]
    return generator._replace(**dict(strict_zip(names, learned)))


def buffers(generator: Generator) -> list[Tensor]:
    return [t for name, t in generator._asdict().items() if t is not None and ("running" in name or "num" in name)]


def fused(tensors: list[Tensor], generator: Generator) -> Tensor:
    return cpu.meta_acon_c(*tensors, generator, 1)


def unfused(tensors: list[Tensor], generator: Generator) -> Tensor:
    """The same out of PyTorch's functions, in the dtype of the tensors."""
    x, p1, p2 = tensors
    g, training = generator, generator.batch_statistics
    y = functional.linear(x.flatten(2).mean(2), g.fc1_weight.flatten(1), g.fc1_bias)
    if g.bn1_weight is not None:
        y = functional.batch_norm(y, g.bn1_running_mean, g.bn1_running_var, g.bn1_weight, g.bn1_bias, training)
        g.bn1_num_batches_tracked.add_(training)
    y = functional.linear(y, g.fc2_weight.flatten(1), g.fc2_bias)
    if g.bn2_weight is not None:
        y = functional.batch_norm(y, g.bn2_running_mean, g.bn2_running_var, g.bn2_weight, g.bn2_bias, training)
        g.bn2_num_batches_tracked.add_(training)
    return exact(x, p1, p2, g.beta_scale * y.sigmoid(), 1)[0]
