"""Derivatives: numerical checks, second derivatives, frozen tensors, and gradients of every layout."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ...compat import strict_zip
from . import inputs
from .checks import Findings, Setting
from .inputs import Case
from .kinds import Kind
from .values import run


def numerical(setting: Setting, kind: Kind) -> None:
    """First and second derivatives of x and all parameters against differences, in float64."""
    for index, case in enumerate((Case((3, 2, 2, 3)), Case((3, 2)), Case((3, 4, 2), -1))):
        function, tensors = _function(kind, case, setting.device)
        # The fast mode checks a random projection of the Jacobian. Equal bits are another check.
        options: dict[str, Any] = dict(fast_mode=setting.quick or index > 0, nondet_tol=1e-10)
        torch.autograd.gradcheck(function, tensors, **options)
        torch.autograd.gradgradcheck(function, tensors, **options)


def _function(kind: Kind, case: Case, device: torch.device) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """A call of the module as a function of x and the parameters."""
    module = kind.random(case.channels, case.channel_dim, device).double()
    names = [name for name, _ in module.named_parameters()]

    def call(x: Tensor, *parameters: Tensor) -> Tensor:
        return functional_call(module, dict(strict_zip(names, parameters)), x)

    x = inputs.random(case, torch.float64, device).requires_grad_()
    return call, (x, *(p.detach().clone().requires_grad_() for p in module.parameters()))


def double_backward(setting: Setting, kind: Kind) -> str:
    """Second derivatives in float32 against the formula in float64."""
    findings = Findings()
    for case in (Case((4, 16, 9, 7)), Case((9, 24))):
        findings.cases += 1
        module = kind.random(case.channels, 1, setting.device)
        expected = kind.plain(module).double()
        x = inputs.random(case, torch.float32, setting.device)
        weights = torch.randn_like(x)
        ours, theirs = _penalty(module, x, weights), _penalty(expected, x.double(), weights.double())
        scale = 1e-2 * max(g.abs().max().item() for g in theirs.values())
        for name, gradient in ours.items():
            findings.close(f"{case.shape} of {name}", gradient, theirs[name], 1e-3, scale)
    return findings.result()


def _penalty(module: nn.Module, x: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """The gradients of the squared norm of the gradient of x."""
    x = x.detach().requires_grad_()
    (grad,) = torch.autograd.grad(module(x), x, weights, create_graph=True)
    grad.square().sum().backward()
    found = {name.removeprefix("module."): p.grad for name, p in module.named_parameters()}
    return {name: g for name, g in {"x": x.grad, **found}.items() if g is not None}


def frozen(setting: Setting, kind: Kind) -> str:
    """Tensors that need no gradient get none, and the others get the same as without frozen ones."""
    findings = Findings()
    case = Case((4, 24, 9, 7))
    module = kind.random(case.channels, 1, setting.device).eval()
    names = [name for name, _ in module.named_parameters()]
    x = inputs.random(case, torch.float32, setting.device)
    grad_y = torch.randn_like(x)
    _, grad_x, gradients = run(module, x, grad_y)
    expected: dict[str, Tensor | None] = {"x": grad_x.clone(), **gradients}
    scale = 1e-2 * max(g.abs().max().item() for g in expected.values() if g is not None)
    for needed in [["x"], names, *([name] for name in names), *(["x", name] for name in names)]:
        findings.cases += 1
        module.zero_grad()
        own = x.detach().requires_grad_("x" in needed)
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name in needed)
        module(own).backward(grad_y)
        for name, gradient in {"x": own.grad, **{n: p.grad for n, p in module.named_parameters()}}.items():
            label = f"gradient of {name}, needed {', '.join(needed)}"
            if name not in needed:
                findings.that(gradient is None, f"{label}: there, but should not be")
            elif (theirs := expected[name]) is not None:
                findings.close(label, gradient, theirs, 1e-5, scale)
    return findings.result()


def layouts_of_gradients(setting: Setting, kind: Kind) -> str:
    """A gradient of y in any layout, also expanded from one number, has the same effect as a contiguous one."""
    findings = Findings()
    for case in (Case((4, 24, 9, 7)), Case((4, 9, 24), -1), Case((12, 24))):
        module = kind.random(case.channels, case.channel_dim, setting.device).eval()
        for of_x in inputs.layouts_of(case, quick=False):
            if setting.quick and of_x not in ("contiguous", "channels_last"):
                continue
            x = inputs.random(case, torch.float32, setting.device, of_x)
            contiguous = inputs.random(case, torch.float32, setting.device)
            gradients = {
                name: (contiguous, inputs.LAYOUTS[name](contiguous)) for name in inputs.layouts_of(case, False)
            }
            one = torch.full((), 0.5, device=setting.device)
            gradients["expanded"] = one.expand(case.shape).contiguous(), one.expand(case.shape)
            transposed = contiguous.transpose(0, -1).contiguous().transpose(0, -1)
            gradients["transposed"] = contiguous, transposed
            for name, (plain, grad_y) in gradients.items():
                findings.cases += 1
                label = f"{case.shape} {of_x}, gradient {name}:"
                _, grad_x, of_parameters = run(module, x, grad_y)
                got = {"x": grad_x, **of_parameters}
                _, grad_x, of_parameters = run(module, x, plain)
                for key, theirs in {"x": grad_x, **of_parameters}.items():
                    if theirs is not None:
                        findings.close(f"{label} of {key}", got[key], theirs, 2e-5)
    return findings.result()


def inputs_unchanged(setting: Setting, kind: Kind) -> None:
    """x and the gradient of y keep their values, because others may need them."""
    findings = Findings()
    for case in (Case((4, 24, 9, 7)), Case((12, 24))):
        module = kind.random(case.channels, 1, setting.device)
        x = inputs.random(case, torch.float32, setting.device)
        grad_y = torch.randn_like(x)
        before = x.clone(), grad_y.clone()
        run(module, x, grad_y)
        findings.equal(f"{case.shape} x", x, before[0])
        findings.equal(f"{case.shape} gradient of y", grad_y, before[1])
    findings.result()
