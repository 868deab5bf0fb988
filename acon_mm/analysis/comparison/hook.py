"""What a run of a comparison does beside training. It is a hook, so the run is the ordinary one of the tools."""

from __future__ import annotations

import hashlib
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn

from ...checkpoints import load_checkpoint
from ...checkpoints.comparison import unwrapped
from ...convert.sites import ACTIVATIONS
from ...files import replacing, write_file, write_json
from ...learned import RecordedBetas, layers_of
from ...registering import register

#: the most lines that a run writes about its steps
_LINES = 200
#: the first batches of a test, in which the betas of Meta-ACON are written down
_BATCHES_FOR_BETA = 4


@register(HOOKS)
class ComparisonHook(Hook):
    """Lets runs that differ in their activations start alike and draw alike, and writes down what it sees.

    - **Start.** Before the first iteration, all tensors outside of activations take the values of the file ``start``.
      The first run of a seed writes it. So it does not matter how many random numbers the initial values of an
      activation take.
    - **Random numbers.** Before each step, and before the data of each step, all generators are seeded with the seed,
      the iteration and the process. So dropout, sampling and augmentation are the same in all runs of a seed, also when
      one of them was resumed.

    Args:
        out: the directory of the run. It gets ``steps.jsonl``, ``validation.jsonl``, ``trained.json`` with what the
            training took, and in the test ``test.json`` and ``activations.json`` with what was learned.
        start: the file of the common start.

    Raises:
        RuntimeError: at the start, if a tensor outside of activations differs in shape or is in one of the models only.
    """

    priority = "VERY_HIGH"  # just after RuntimeInfoHook, which waits for the device

    def __init__(self, out: str, start: str):
        self.out, self.start = Path(out), Path(start)
        self.step_times: list[float] = []
        self.test_times: list[float] = []

    def before_train(self, runner: Runner) -> None:
        self.every = max(1, runner.max_iters // _LINES)
        if runner.iter == 0:
            digest = share_start(unwrapped(runner.model), self.start)
            if get_rank() == 0:
                self._write("start.json", {"digest": digest})
        if get_rank() == 0:
            for name in ("steps.jsonl", "validation.jsonl"):  # what a killed run wrote after its last checkpoint
                lines = [line for line in read_lines(self.out / name) if line["iter"] <= runner.iter]
                write_file(self.out / name, "".join(json.dumps(line) + "\n" for line in lines))

    def before_train_epoch(self, runner: Runner) -> None:
        self._seed(runner, runner.iter, before_data=True)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self._seed(runner, runner.iter, before_data=False)
        self.began = time.perf_counter()

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        _wait_for_device()
        self.step_times.append(time.perf_counter() - self.began)
        step = runner.iter + 1
        self._seed(runner, step, before_data=True)
        if step % self.every == 0 or step == runner.max_iters:
            losses = runner.message_hub.get_scalar("train/loss")
            self._append(
                "steps.jsonl",
                {
                    "iter": step,
                    "of": runner.max_iters,
                    "loss": float(losses.mean(self.every)),
                    "time": float(np.mean(self.step_times[-self.every :])),
                },
            )

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self._append("validation.jsonl", {"iter": runner.iter, "metrics": _numbers(metrics)})
        self._seed(runner, runner.iter, before_data=True)

    def after_train(self, runner: Runner) -> None:
        if get_rank() != 0:
            return
        times = [line["time"] for line in read_lines(self.out / "steps.jsonl")]
        # The first steps warm up.
        self._write("trained.json", {"step_time": float(np.median(times[len(times) // 10 :])), "memory": peak_memory()})

    def before_test(self, runner: Runner) -> None:
        self.betas = RecordedBetas(unwrapped(runner.model))

    def before_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        if batch_idx == min(_BATCHES_FOR_BETA, len(runner.test_dataloader) // 2):
            self.betas.stop()  # it takes time, so the times of the other batches count
            self.test_times.clear()
        _wait_for_device()
        self.began = time.perf_counter()

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        _wait_for_device()
        self.test_times.append((time.perf_counter() - self.began) / max(1, len(outputs or ())))

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self.betas.stop()
        if get_rank() == 0:
            self._write(
                "activations.json", [each.as_dict() for each in layers_of(unwrapped(runner.model), self.betas.means())]
            )
            picture = float(np.median(self.test_times[len(self.test_times) // 10 :]))
            self._write("test.json", {"metrics": _numbers(metrics), "time": picture})

    def _seed(self, runner: Runner, iteration: int, before_data: bool) -> None:
        words = np.random.SeedSequence([runner.seed, iteration, before_data, get_rank()]).generate_state(1)
        seed = int(words[0])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)

    def _append(self, name: str, line: dict) -> None:
        if get_rank() == 0:
            with open(self.out / name, "a") as file:
                file.write(json.dumps(line) + "\n")

    def _write(self, name: str, content: Any) -> None:
        write_json(self.out / name, content)


def share_start(model: nn.Module, path: Path) -> str:
    """Give the tensors of a model outside of its activations the values in ``path``, or write them there.

    Returns:
        a digest of these values.

    Raises:
        RuntimeError: the file has other tensors.
    """
    own = outside_of_activations(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            with replacing(path) as file:
                torch.save({name: each.detach().cpu() for name, each in own.items()}, file)
    start = load_checkpoint(path)
    shapes, others = ({name: tuple(each.shape) for name, each in tensors.items()} for tensors in (own, start))
    if shapes != others:
        names = [name for name in {**shapes, **others} if shapes.get(name) != others.get(name)]
        raise RuntimeError(
            f"the runs cannot start alike: outside of activations, {len(names)} tensors differ between the models of "
            f"two activations, such as {names[0]}: compare only configs that differ in their activations"
        )
    digest = hashlib.sha256()
    with torch.no_grad():
        for name, each in own.items():
            each.copy_(start[name])
            digest.update(each.numpy(force=True).tobytes())
    return digest.hexdigest()[:16]


def outside_of_activations(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers that are saved, without those in activations, by name."""
    inside = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, ACTIVATIONS))
    return {
        name: each
        for name, each in model.state_dict().items()
        if isinstance(each, Tensor) and not name.startswith(inside)
    }


def peak_memory() -> int:
    """The most memory that this process has had, in bytes: on the GPU if there is one, else in all."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    import resource  # Windows has none

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``.jsonl`` file, without one that a kill has cut off. No file has no lines."""
    lines = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines


def _numbers(metrics: dict[str, Any] | None) -> dict[str, float]:
    return {name: float(value) for name, value in (metrics or {}).items() if isinstance(value, (float, np.number))}


def _wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
