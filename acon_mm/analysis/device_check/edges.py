"""Empty tensors, infinities and NaN, wrong arguments."""

from collections.abc import Callable
from itertools import product
from math import inf, nan

import torch

from ...compat import strict_zip
from ...ops import functional as F
from . import inputs
from .checks import Findings, Setting, Skip
from .kinds import Kind


def empty(setting: Setting, kind: Kind) -> str:
    """Tensors without elements pass forward and backward; what they add to gradients of parameters is 0."""
    findings = Findings()
    for case, dtype in product(inputs.EMPTY_CASES, (torch.float32, torch.float16)):
        if kind.has_window and 0 in case.shape[1:]:
            continue
        findings.cases += 1
        module = kind.random(case.channels, case.channel_dim, setting.device)
        x = inputs.random(case, dtype, setting.device).requires_grad_()
        label = f"{case.shape} {str(dtype)[6:]}"
        try:
            y = module(x)
            y.sum().backward()
        except Exception as error:  # the next case may pass
            findings.wrong.append(f"{label}: {type(error).__name__}: {error}")
            continue
        findings.that(y.shape == x.shape and y.dtype == dtype, f"{label}: y is {y.dtype} {tuple(y.shape)}")
        findings.that(x.grad is not None and x.grad.shape == x.shape, f"{label}: no gradient of x")
        if not kind.depends_on_mean:
            gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
            wrong = [name for name, grad in gradients.items() if not (grad == 0).all()]
            findings.that(not wrong, f"{label}: the gradients of {', '.join(wrong)} are not 0")
    return findings.result()


def infinite(setting: Setting) -> str:
    """At infinity, y is ``p1 x`` or ``p2 x`` and its derivative p1 or p2. NaN stays NaN, and stays where it is."""
    findings = Findings()
    p1, p2, beta = (torch.tensor([v], device=setting.device) for v in (1.5, -0.5, 1.0))
    special = {inf: (inf, 1.5), -inf: (inf, -0.5), nan: (nan, nan)}
    for dtype, size in product((torch.float32, torch.float16, torch.bfloat16), (1, 5, 1000)):
        for value, (of_y, of_x) in special.items():
            findings.cases += 1
            x = torch.zeros(2, 1, size, device=setting.device, dtype=dtype)
            x[1, 0, -1] = value
            x.requires_grad_()
            y = F.acon_c(x, p1, p2, beta)
            y.backward(torch.ones_like(y))
            assert x.grad is not None
            label = f"{value} in {str(dtype)[6:]}, size {size}:"
            got = y[1, 0, -1].item(), x.grad[1, 0, -1].item()
            same = all(a == b or (a != a and b != b) for a, b in strict_zip(got, (of_y, of_x)))
            findings.that(same, f"{label} y {got[0]} and its derivative {got[1]}, not {of_y} and {of_x}")
            others = y.flatten()[:-1]
            findings.that(bool((others == 0).all()), f"{label} it changes other elements")
    return findings.result()


def wrong_arguments(setting: Setting) -> None:
    """Arguments that do not fit raise an error; no memory past a tensor's end is read."""
    x = torch.ones(4, 4, 5, device=setting.device)
    p = torch.ones(4, device=setting.device)
    calls: dict[str, Callable[[], object]] = {
        "acon_c with channel_dim=0": lambda: F.acon_c(x, p, p, p, 0),
        "acon_c with channel_dim=3": lambda: F.acon_c(x, p, p, p, 3),
        "acon_c with parameters of 3 channels": lambda: F.acon_c(x, p[:3], p[:3], p[:3]),
        "input_and_mean with channel_dim=0": lambda: F.input_and_mean(x, 0),
        "input_and_mean with channel_dim=3": lambda: F.input_and_mean(x, 3),
    }
    findings = Findings()
    for name, call in calls.items():
        try:
            call()
        except (ValueError, IndexError, TypeError, RuntimeError):
            continue
        findings.wrong.append(f"{name}: no error")
    findings.result()


def mixed_devices(setting: Setting) -> str:
    """A parameter on another device than x is an error that names both devices."""
    if setting.device.type == "cpu":
        raise Skip("there is no other device")
    on_cpu, there = torch.ones(4), torch.ones(4, device=setting.device)
    x = torch.ones(2, 4, 5)
    calls: dict[str, Callable[[], object]] = {
        "x": lambda: F.acon_c(x, there, there, there),
        "p1": lambda: F.acon_c(x.to(setting.device), on_cpu, there, there),
        "beta": lambda: F.acon_c(x.to(setting.device), there, there, on_cpu),
        "all parameters": lambda: F.acon_c(x.to(setting.device), on_cpu, on_cpu, on_cpu),
    }
    findings = Findings()
    for name, call in calls.items():
        findings.cases += 1
        try:
            call()
        except (ValueError, RuntimeError, TypeError) as error:
            named = "cpu" in str(error) and setting.device.type in str(error)
            findings.that(named, f"{name} on the CPU: the error does not name both devices: {error}")
        else:
            findings.wrong.append(f"{name} on the CPU: no error")
    return findings.result()
