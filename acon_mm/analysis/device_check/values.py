"""Values and all gradients against the formula in float64."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...compat import strict_zip
from . import inputs
from .checks import Findings, Setting
from .inputs import Case
from .kinds import Kind


def values(setting: Setting, kind: Kind, dtype: torch.dtype) -> str:
    """y, the gradients of x and of all parameters, and running statistics, over shapes and layouts."""
    findings = Findings()
    # Convolutions in float64 are slow on a CPU, and not ours.
    few = setting.quick or (kind.has_window and not setting.on_gpu)
    for case in inputs.cases(few, setting.on_gpu):
        for layout in inputs.layouts_of(case, setting.quick):
            for training in (True, False) if kind.has_norm else (True,):
                _compare(setting, kind, dtype, case, layout, training, findings)
    return findings.result()


def _compare(
    setting: Setting, kind: Kind, dtype: torch.dtype, case: Case, layout: str, training: bool, findings: Findings
) -> None:
    findings.cases += 1
    label = f"{'x'.join(map(str, case.shape))} {layout}{'' if training else ' evaluation'}"
    module = kind.random(case.channels, case.channel_dim, setting.device).train(training)
    if dtype == torch.float64:
        module.double()
    expected = kind.plain(module).double()
    x = inputs.random(case, dtype, setting.device, layout)
    grad_y = torch.randn_like(x)
    y, grad_x, gradients = run(module, x, grad_y)
    y64, grad_x64, gradients64 = run(expected, x.double(), grad_y.double())
    findings.that(y.dtype == dtype == grad_x.dtype, f"{label}: y is {y.dtype}, its gradient {grad_x.dtype}")
    if layout == "channels_last":
        kept = all(t.is_contiguous(memory_format=inputs.channels_last_of(x)) for t in (y, grad_x))
        findings.that(kept, f"{label}: the result is not channels_last")
    findings.close(f"{label} y", y, y64, inputs.TOLERANCE[dtype])
    findings.close(f"{label} gradient of x", grad_x, grad_x64, inputs.TOLERANCE[dtype])
    _compare_parameters(label, gradients, gradients64, _parameter_tolerance(kind, dtype), findings)
    for (name, buffer), expected_buffer in strict_zip(module.named_buffers(), expected.buffers()):
        if name.endswith(("running_mean", "running_var")):
            findings.close(f"{label} {name}", buffer, expected_buffer, _parameter_tolerance(kind, dtype))


def _parameter_tolerance(kind: Kind, dtype: torch.dtype) -> float:
    if dtype == torch.float64:
        return inputs.TOLERANCE[dtype]
    return kind.tolerance if kind.wide_sums else 4 * inputs.TOLERANCE[dtype]


def _compare_parameters(
    label: str, got: dict[str, Tensor | None], expected: dict[str, Tensor | None], tolerance: float, findings: Findings
) -> None:
    # Some gradients are 0 but for rounding, such as that of a bias before a batch norm.
    scale = 1e-2 * max((g.abs().max().item() for g in expected.values() if g is not None), default=0.0)
    for name, gradient in got.items():
        theirs = expected[f"module.{name}"]
        if theirs is not None:
            findings.close(f"{label} gradient of {name}", gradient, theirs, tolerance, scale)


def run(module: nn.Module, x: Tensor, grad_y: Tensor | None) -> tuple[Tensor, Tensor, dict[str, Tensor | None]]:
    """y, the gradient of x, and the gradients of the parameters by name."""
    x = x.detach().requires_grad_()
    module.zero_grad()
    y = module(x)
    y.backward(grad_y)
    assert x.grad is not None
    return y.detach(), x.grad, {name: p.grad for name, p in module.named_parameters()}


def without_gradients(setting: Setting, kind: Kind) -> str:
    """y is the same to the bit where nothing needs a gradient."""
    findings = Findings()
    for case in inputs.QUICK_CASES:
        findings.cases += 1
        module = kind.random(case.channels, case.channel_dim, setting.device).eval()
        x = inputs.random(case, torch.float32, setting.device)
        with torch.no_grad():
            y = module(x)
        findings.equal(f"{case.shape} without gradients", y, module(x).detach())
    return findings.result()


def repeatable(setting: Setting, kind: Kind) -> str:
    """The same call gives the same bits, forward and backward."""
    findings = Findings()
    shapes: Sequence[Case] = (Case((4, 64, 56, 56)), Case((40, 32, 7, 7)), Case((300, 64)))
    for case in shapes[1:] if setting.quick else shapes:
        for layout in ("contiguous", "channels_last") if len(case.shape) == 4 else ("contiguous",):
            findings.cases += 1
            x = inputs.random(case, torch.float32, setting.device, layout)
            module, grad_y = kind.random(case.channels, 1, setting.device), torch.randn_like(x)
            first = run(copy.deepcopy(module), x, grad_y)
            for _ in range(3):
                y, grad_x, gradients = run(copy.deepcopy(module), x, grad_y)
                findings.equal(f"{case.shape} {layout} y", y, first[0])
                findings.equal(f"{case.shape} {layout} gradient of x", grad_x, first[1])
                for name, gradient in gradients.items():
                    findings.equal(f"{case.shape} {layout} gradient of {name}", gradient, first[2][name])
    return findings.result()
