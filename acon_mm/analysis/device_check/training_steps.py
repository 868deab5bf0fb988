"""Steps of training of a whole detector against the same with ReLU. This needs OpenMMLab's packages."""

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from ...compat import strict_zip
from ..benchmark import models
from ..benchmark.measure import interleaved, ratios
from .checks import Setting, chosen

_VARIANTS = ("ACON-C, paper's sites", "Meta-ACON-C, paper's sites", "ACON-C everywhere", "Meta-ACON-C everywhere")
#: the goals on a GPU
_GOALS = dict(strict_zip(_VARIANTS, (1.03, 1.06, 1.08, 1.15)))


@dataclass
class Step:
    """A row of the table: a detector in one precision."""

    model: str
    batch: int
    size: int
    precision: str
    #: seconds of a step with ReLU, the best of all rounds
    seconds: float
    #: time over ReLU's, by variant
    ratio: dict[str, float]


def measure(setting: Setting) -> Iterator[Step]:
    """float32 (with TF32 on a GPU) and float16 by autocast; on a CPU a small case in float32."""
    model, batch, size = ("RetinaNet-R50", 2, 800) if setting.on_gpu else ("RetinaNet-R18", 1, 192)
    variants = [models.REFERENCE, *(name for name in _VARIANTS if chosen(name, setting.only))]
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    try:
        for precision in ("float32", "AMP float16") if setting.on_gpu else ("float32",):
            steps = {name: _step(model, name, batch, size, precision, setting.device) for name in variants}
            for _ in range(2):  # cuDNN chooses its algorithms, the allocator gets its memory
                for step in steps.values():
                    step()
            times = interleaved(
                steps, seconds=3 if setting.quick else 8, device=setting.device, min_rounds=5 if setting.on_gpu else 3
            )
            best = min(times[models.REFERENCE])
            yield Step(model, batch, size, precision, best, ratios(times, models.REFERENCE))
            del steps
            gc.collect()
            if setting.on_gpu:
                torch.cuda.empty_cache()
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = before


def _step(
    model_name: str, variant: str, batch: int, size: int, precision: str, device: torch.device
) -> Callable[[], object]:
    model = models.build(model_name, variant, device)
    if precision.startswith("AMP"):
        # As mmengine's AmpOptimWrapper does: the loss in half precision, backward and the step outside.
        half = torch.autocast(device.type, dtype=torch.float16)
        model.loss = half(model.loss)  # type: ignore[method-assign]
    return models.training_step(model, batch, size, device)


def rows(found: Sequence[Step]) -> list[list[str]]:
    """The table, with its head."""
    labels = [f"{s.model}, batch {s.batch}, {s.size}x{s.size}, {s.precision} ({1e3 * s.seconds:.0f} ms)" for s in found]
    names = list(found[0].ratio) if found else []
    lines = [[name, *(f"{s.ratio[name]:.3f}" for s in found), f"{_GOALS.get(name, '')}"] for name in names]
    return [["x ReLU", *labels, "goal on a GPU"], *lines]
