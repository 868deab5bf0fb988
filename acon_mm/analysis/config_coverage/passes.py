"""Runs a model with ACON in all its passes. Where a pass fails, the unchanged model shows whether ACON is the cause."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from ...layers import Acon
from ..build import SIZES
from . import samples
from .gradients import never_learns, without_gradient
from .trace import Trace, explain

#: in errors that a larger picture does not help: no kernel for CPUs; SAN's class weights for other classes
_NOT_THE_SIZE = ("implementation for device", "weight tensor should be defined")


@dataclass
class RunReport:
    """What was seen while a model ran.

    Attributes:
        passes: the height and width of the pictures, by the name of each pass that ran.
        not_run: the error, by the name of each pass that the unchanged model does not run either.
        wrong_channels: errors of ACONs that got another number of channels than they have.
        broken: errors of passes that fail with ACON and run without.
        without_gradient: names of ACONs that should learn and get no gradient.
        unused: names of ACONs that get no gradient because the layer before them gets none, with or without ACON.
        kept: why a ReLU-like call stays, by the name of the call.
        unexplained: ReLU-like calls that are not an ACON's and have no reason to stay.
        never_called: names of ACONs that were not called, though the module that owns them was.
        not_reached: names of ACONs that were not called, and whose owner was not either.
    """

    passes: dict[str, int] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)
    wrong_channels: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    without_gradient: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)
    unexplained: list[str] = field(default_factory=list)
    never_called: list[str] = field(default_factory=list)
    not_reached: list[str] = field(default_factory=list)


def run_passes(model: BaseModel, original: BaseModel) -> RunReport:
    """Run each pass of ``model`` on the smallest pictures that ``original`` runs on."""
    report, pair, called = RunReport(), _Pair(model, original), set[str]()
    with _recorded_calls(model, pair.called):
        for each in samples.passes(model):
            pair.called.clear()  # a pass of one part gives no gradients to another one
            _run_pass(pair, each, report)
            called |= pair.called
    report.kept, report.unexplained = explain(model, pair.trace.calls)
    for name, module in model.named_modules():
        if isinstance(module, Acon) and name not in called:
            owner_ran = bool(report.passes) and _owner_ran(model, name, called)
            (report.never_called if owner_ran else report.not_reached).append(name)
    return report


class _Pair:
    """A model with ACON, the unchanged model, and what was seen of the former."""

    def __init__(self, model: BaseModel, original: BaseModel) -> None:
        self.model, self.original = model, original
        self.trace = Trace()
        self.called: set[str] = set()
        self._initialized = False

    def run(self, each: samples.Pass, size: int) -> tuple[Tensor | None, Exception | None]:
        """The loss and the error of a pass of the model with ACON.

        After the first error, both models get initial weights and the pass is tried again: without that, some
        parameters have whatever the memory held.
        """
        loss, error = attempt(self.model, each, size, self.trace)
        if error is None or self._initialized or _is_of_channels(error):
            return loss, error
        self._initialize()
        return attempt(self.model, each, size, self.trace)

    def _initialize(self) -> None:
        self._initialized = True
        with contextlib.suppress(Exception):  # a class that wants to download weights stays as it is
            self.original.init_weights()
        for parameter in self.original.parameters():
            if parameter.dim() > 1 and not 0 < parameter.abs().max() < 1000:  # SAN downloads some
                nn.init.normal_(parameter, std=0.02)
        self.model.load_state_dict(self.original.state_dict(), strict=False)
        for module in (*self.original.modules(), *self.model.modules()):
            if isinstance(getattr(module, "cache", None), dict):  # what SAN computed from the old weights
                module.cache.clear()


def attempt(
    model: BaseModel, each: samples.Pass, size: samples.Size, trace: Trace | None = None
) -> tuple[Tensor | None, Exception | None]:
    """Run a pass; its loss (None outside of training) and its error, one of them None."""
    torch.manual_seed(0)
    model.train(each.train)
    try:
        with torch.set_grad_enabled(each.train), trace or contextlib.nullcontext():
            output = each.step(model, size)
    except Exception as error:
        return None, error
    return (samples.total(output) if each.train else None), None


def _loss(model: BaseModel, each: samples.Pass, size: int) -> Tensor:
    loss, error = attempt(model, each, size)
    if loss is None:
        raise RuntimeError(f"{each.name} at {size} fails, though it ran with ACON before") from error
    return loss


def _run_pass(pair: _Pair, each: samples.Pass, report: RunReport) -> None:
    smallest = max(report.passes.values(), default=0)
    for size in (size for size in SIZES if size >= smallest):
        loss, error = pair.run(each, size)
        if error is None:
            report.passes[each.name] = size
            report.not_run.pop(each.name, None)
            if loss is not None:
                _check_gradients(pair, each, size, loss, report)
            return
        if _is_of_channels(error):
            report.wrong_channels.append(short(error))
            return
        _, error_without_acon = attempt(pair.original, each, size)
        if error_without_acon is None:
            report.broken.append(f"{each.name} at {size}: {short(error)}")
            return
        report.not_run[each.name] = short(error_without_acon)
        if not _depends_on_size(error_without_acon):
            return


def _check_gradients(pair: _Pair, each: samples.Pass, size: int, loss: Tensor, report: RunReport) -> None:
    acons = {
        name: module
        for name, module in pair.model.named_modules()
        if isinstance(module, Acon) and name in pair.called and any(p.requires_grad for p in module.parameters())
    }
    names = without_gradient(loss, acons)
    if names:
        # A part that is computed again in backward shows its gradients only in a full backward pass.
        names = without_gradient(_loss(pair.model, each, size), {name: acons[name] for name in names}, full=True)
    if names:
        unused = never_learns(pair.model, pair.original, names, _loss(pair.original, each, size))
        report.unused += unused
        report.without_gradient += [name for name in names if name not in unused]


def _is_of_channels(error: Exception) -> bool:
    return isinstance(error, (ValueError, RuntimeError)) and "Acon" in str(error).split(" at ")[0]


def _depends_on_size(error: Exception) -> bool:
    return not isinstance(error, (ImportError, AttributeError)) and not any(
        text in short(error) for text in _NOT_THE_SIZE
    )


@contextlib.contextmanager
def _recorded_calls(model: nn.Module, called: set[str]) -> Iterator[None]:
    """Add the name of each module that is called to ``called``, once its call has come to its end."""
    handles = [
        module.register_forward_hook(lambda *_, name=name: called.add(name))
        for name, module in model.named_modules(remove_duplicate=False)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _owner_ran(model: nn.Module, name: str, called: set[str]) -> bool:
    """Whether the module that owns an activation was called, so that the activation should have been called too."""
    owner, _, leaf = name.rpartition(".")
    parent = model.get_submodule(owner)
    if isinstance(parent, nn.Sequential) and owner not in called:  # its layers are called one by one
        layers = [each for each, _ in parent.named_children()]
        return any(f"{owner}.{each}" in called for each in layers[: layers.index(leaf)])
    while isinstance(model.get_submodule(owner), (nn.ModuleList, nn.ModuleDict)):
        owner = owner.rpartition(".")[0]
    return owner in called


def short(error: Exception) -> str:
    """Type, text and place of an error, in one line, without the directory where packages are installed."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())
    _, inside, path = last.filename.rpartition("site-packages/")
    return f"{type(error).__name__}: {text[:400]} ({path if inside else Path(path).name}:{last.lineno})"
