"""A check, its result, and how checks are chosen and run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import NamedTuple

import torch
from torch import Tensor


class Setting(NamedTuple):
    """Where and how much to check."""

    device: torch.device
    #: fewer and smaller cases
    quick: bool = False
    #: patterns of names; see :func:`chosen`
    only: Sequence[str] = ()

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"


class Skip(Exception):
    """The machine cannot run a check. The text says why."""


class Check(NamedTuple):
    """A check by name. It raises where something is wrong, and may return a remark."""

    name: str
    run: Callable[[], str | None]


@dataclass
class Result:
    """What came of a check."""

    name: str
    #: ``'ok'``, ``'FAIL'``, ``'skipped'``, or ``'not run'``: a check before it left the device unusable
    status: str
    seconds: float
    #: the error, the reason, or a remark
    detail: str


def chosen(name: str, patterns: Sequence[str]) -> bool:
    """Whether a part of ``name`` matches one of the patterns (``*`` and ``?``), or there is none."""
    # In fnmatch, brackets mean a set of characters. Here they are a part of the names.
    return not patterns or any(fnmatch(name.lower(), f"*{p.lower().replace('[', '[[]')}*") for p in patterns)


def run(checks: Iterable[Check], setting: Setting) -> Iterator[Result]:
    """Run the checks that are chosen, each from the same random numbers, in full float32."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic
    # In TF32, the convolutions of two equal networks may differ by 1e-3.
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic = False, False, True
    try:
        yield from _run_all(checks, setting)
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic = before


def _run_all(checks: Iterable[Check], setting: Setting) -> Iterator[Result]:
    unusable = ""
    for check in checks:
        if not chosen(check.name, setting.only):
            continue
        if unusable:
            yield Result(check.name, "not run", 0.0, unusable)
            continue
        result = _run(check, setting.device)
        yield result
        if result.status == "FAIL" and not _usable(setting.device):
            unusable = f"the device is unusable after {check.name}; choose other checks to run them"


def _run(check: Check, device: torch.device) -> Result:
    torch.manual_seed(0)
    start = time.perf_counter()
    try:
        remark = check.run()
        synchronize(device)
        status, detail = "ok", remark or ""
    except Skip as reason:
        status, detail = "skipped", str(reason)
    except Exception as error:  # every error of a check is its result
        status, detail = "FAIL", f"{type(error).__name__}: {error}"
    return Result(check.name, status, time.perf_counter() - start, detail)


def _usable(device: torch.device) -> bool:
    """Whether the device still computes. After an illegal access to memory it does not."""
    try:
        torch.ones(1, device=device).item()
    except RuntimeError:
        return False
    return True


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Findings:
    """Collects what is wrong, so that one wrong case does not hide the next one."""

    #: how many are shown
    SHOWN = 4

    def __init__(self) -> None:
        self.cases = 0
        self.wrong: list[str] = []

    def close(self, label: str, got: Tensor | None, expected: Tensor, tolerance: float, scale: float = 0.0) -> None:
        """``got`` must be within ``tolerance`` of ``expected``, relative to its largest element and to ``scale``."""
        if got is None:
            self.wrong.append(f"{label}: missing")
            return
        if got.shape != expected.shape:
            self.wrong.append(f"{label}: shape {tuple(got.shape)}, not {tuple(expected.shape)}")
            return
        if got.numel() == 0:
            return
        expected = expected.to(got.device)
        wide = torch.promote_types(expected.dtype, torch.float32)
        largest = max(expected.abs().max().item(), scale, torch.finfo(wide).tiny)
        error = (got.detach().to(wide) - expected.to(wide)).abs().max().item() / largest
        if not error <= tolerance:  # also where it is NaN
            self.wrong.append(f"{label}: relative error {error:.1e} (allowed: {tolerance:.0e})")

    def equal(self, label: str, got: Tensor | None, expected: Tensor | None) -> None:
        """Both must be equal to the bit, or both missing."""
        if got is None or expected is None:
            if got is not expected:
                self.wrong.append(f"{label}: {'missing' if got is None else 'there'}, but should not be")
        elif not torch.equal(got, expected):
            self.wrong.append(f"{label}: differs by {(got.double() - expected.double()).abs().max().item():.1e}")

    def that(self, condition: bool, problem: str) -> None:
        if not condition:
            self.wrong.append(problem)

    def result(self) -> str:
        """The number of cases.

        Raises:
            AssertionError: something is wrong.
        """
        if self.wrong:
            more = len(self.wrong) - self.SHOWN
            raise AssertionError("; ".join(self.wrong[: self.SHOWN]) + (f"; and {more} more" if more > 0 else ""))
        return f"{self.cases} cases" if self.cases else ""
