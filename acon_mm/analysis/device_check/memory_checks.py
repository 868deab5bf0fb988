"""What backward makes again instead of keeping it (:mod:`acon_mm.ops.memory`)."""

from __future__ import annotations

from contextlib import nullcontext
from itertools import product

import torch
from torch import Tensor, nn

from ...compat import strict_zip
from ...ops.memory import keep_outputs, recompute_outputs
from .checks import Findings, Setting, Skip
from .kinds import Kind
from .training_checks import close_gradients, network

_SIZE = 130  # the activation gets 4x16x128x128, 4 MiB in float32


def made_again(setting: Setting, kind: Kind) -> str:
    """The same gradients, with the output made again, and with the input too; on a GPU also in less memory."""
    net, _ = network(kind, setting.device)
    act = net[2]
    if not hasattr(act, "memory"):
        raise Skip("only modules have the option memory='least'")
    findings = Findings()
    x = torch.randn(4, 3, _SIZE, _SIZE, device=setting.device)
    results = {name: _step(net, act, x, name, setting) for name in ("kept", "default", "least")}
    expected, most = results["kept"]
    scale = max(g.abs().max().item() for g in expected)
    for name in ("default", "least"):
        gradients, kept = results[name]
        for place, (gradient, wanted) in enumerate(strict_zip(gradients, expected)):
            findings.close(f"{name}, gradient {place}", gradient, wanted, 1e-4, scale)
        if setting.on_gpu:
            saved = (most - kept) / (4 * 16 * (_SIZE - 2) ** 2 * 4)
            wanted_maps = 1 if name == "default" else 2
            findings.that(saved > wanted_maps - 0.1, f"{name} keeps {saved:.2f} maps less, not {wanted_maps}")
    return findings.result()


def norm_before(setting: Setting, kind: Kind) -> str:
    """A norm and the ACON that may overwrite its output have the gradients that both have one by one."""
    ours, plain = network(kind, setting.device)
    if not hasattr(ours[2], "inplace"):
        raise Skip("only modules have the option inplace")
    ours[2].inplace = True  # type: ignore[assignment]
    findings, together = Findings(), 0
    half = torch.float16 if setting.on_gpu else torch.bfloat16
    for training, layout, dtype in product(
        (True, False), (torch.contiguous_format, torch.channels_last), (torch.float32, half)
    ):
        if kind.has_norm and training and dtype == half:
            continue  # the generator's norms make differences between four samples, which are rounded, large
        findings.cases += 1
        x = torch.randn(4, 3, _SIZE, _SIZE, device=setting.device).to(memory_format=layout)
        for net in (ours, plain):
            net.train(training).to(memory_format=layout).zero_grad()  # type: ignore[call-overload]
            with torch.autocast(setting.device.type, dtype=dtype, enabled=dtype == half):
                y = net[1](net[0](x))
                place = y.data_ptr()
                y = net[2](y)
                together += y.data_ptr() == place
                net[3](y).float().square().mean().backward()
        close_gradients(
            f"training {training}, {layout}, {dtype},", ours, plain, findings, 5e-2 if dtype == half else 5e-3
        )
    return f"one operator in {together} of {findings.result()}"


def _step(net: nn.Sequential, act: nn.Module, x: Tensor, memory: str, setting: Setting) -> tuple[list[Tensor], int]:
    """The gradients of a step, and on a GPU the bytes in use before backward."""
    act.memory = "least" if memory == "least" else "default"  # type: ignore[assignment]
    net.zero_grad()
    with keep_outputs() if memory == "kept" else nullcontext():
        loss = net(x).square().mean()
        recompute_outputs(loss)
    kept = torch.cuda.memory_allocated(setting.device) if setting.on_gpu else 0
    loss.backward()
    return [p.grad.clone() for p in net.parameters() if p.grad is not None], kept
