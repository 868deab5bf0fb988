"""What only CUDA has: streams, graphs, several devices, and memory for tensors of more than 2^31 elements."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from ...compat import strict_zip
from ...ops import functional as F
from . import inputs, kinds
from .checks import Findings, Setting, Skip
from .inputs import Case
from .kinds import Kind
from .training_checks import close_networks, network
from .values import run

#: about 30 ms, in cycles of the GPU's clock
_LONG = 50_000_000


def _need_cuda(setting: Setting, gibibytes: int = 0) -> None:
    if not setting.on_gpu:
        raise Skip("this needs CUDA")
    free = torch.cuda.mem_get_info(setting.device)[0] / 2**30
    if free < gibibytes:
        raise Skip(f"this needs {gibibytes} GiB of memory, and {free:.0f} are free")


def streams(setting: Setting, kind: Kind) -> None:
    """Kernels run on the current stream, after what was given to it before."""
    _need_cuda(setting)
    case = Case((4, 64, 32, 32))
    module = kind.random(case.channels, 1, setting.device).eval()
    source = inputs.random(case, torch.float32, setting.device)
    grad_y = torch.randn_like(source)
    expected = run(copy.deepcopy(module), source, grad_y)
    x, late_grad = torch.zeros_like(source), torch.zeros_like(source)
    stream = torch.cuda.Stream(setting.device)
    stream.wait_stream(torch.cuda.current_stream(setting.device))
    with torch.cuda.stream(stream):
        torch.cuda._sleep(_LONG)
        x.copy_(source)
        late_grad.copy_(grad_y)
        y, grad_x, gradients = run(module, x, late_grad)
        # A copy on the same stream: if the kernel ran on another one, later or earlier, this shows it.
        got = {"y": y.clone(), "x": grad_x.clone(), **{n: g.clone() for n, g in gradients.items() if g is not None}}
    stream.synchronize()
    findings = Findings()
    for name, theirs in {"y": expected[0], "x": expected[1], **expected[2]}.items():
        findings.equal(f"{name} on another stream", got.get(name), theirs)
    findings.result()


def graph_forward(setting: Setting, kind: Kind) -> str:
    """A captured call gives the same as a plain one, for new values of x."""
    _need_cuda(setting)
    findings = Findings()
    for case in (Case((4, 64, 32, 32)), Case((40, 32, 7, 7)), Case((30, 64))):
        findings.cases += 1
        module = kind.random(case.channels, 1, setting.device).eval()
        x = inputs.random(case, torch.float16, setting.device)
        with torch.no_grad():
            graph, y = captured(partial(module, x))
            for _ in range(2):
                x.copy_(inputs.random(case, torch.float16, setting.device))
                graph.replay()
                findings.equal(f"{case.shape}", y, module(x))
    return findings.result()


def captured(call: Callable[[], Any]) -> tuple[torch.cuda.CUDAGraph, Any]:
    """A graph of the call, and what the call returns in it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()
    return graph, result


def graph_training_step(setting: Setting, kind: Kind) -> None:
    """A whole step of training in one graph moves the parameters as plain steps of the formula do."""
    _need_cuda(setting)
    ours, plain = network(kind, setting.device)
    x = torch.randn(8, 3, 20, 20, device=setting.device)

    def step_of(net: nn.Module) -> Callable[[], None]:
        optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)

        def step() -> None:
            optimizer.zero_grad()
            net(x).sub(1).square().mean().backward()
            optimizer.step()

        return step

    graph, _ = captured(step_of(ours))
    plain_step = step_of(plain)
    for _ in range(3):  # those before the capture; the capture itself computes nothing
        plain_step()
    for _ in range(3):
        x.copy_(torch.randn_like(x))
        graph.replay()
        plain_step()
    findings = Findings()
    close_networks("after 6 steps:", ours, plain, 1e-3, findings)
    findings.result()


def large(setting: Setting) -> str:
    """More than 2^31 elements, forward and backward, in both layouts."""
    _need_cuda(setting, gibibytes=30)
    case = Case((2, 64, 4100, 4100))
    findings = Findings()
    kind = next(kind for kind in kinds.of_this_machine(with_modules=False) if kind.name == "acon_c")
    for layout in (torch.contiguous_format, torch.channels_last):
        findings.cases += 1
        x = torch.empty(case.shape, device=setting.device, dtype=torch.float16, memory_format=layout).normal_()
        module = kind.random(case.channels, 1, setting.device)
        grad_y = torch.empty_like(x).normal_()
        y, grad_x, gradients = run(module, x, grad_y)
        # The last channel has the last elements. It is computed again by itself.
        own = slice(case.channels - 1, case.channels)
        values = [p.detach()[own].double().requires_grad_() for p in module.parameters()]
        last = x[:, own].double().requires_grad_()
        expected = kinds.acon_c(last, 1, *values)
        expected.backward(grad_y[:, own].double())
        assert last.grad is not None
        findings.close(f"{layout} y", y[:, own], expected.detach(), 2e-3)
        findings.close(f"{layout} gradient of x", grad_x[:, own], last.grad, 2e-3)
        for (name, gradient), value in strict_zip(gradients.items(), values):
            assert gradient is not None and value.grad is not None
            # A sum of 3e7 random numbers: the error is measured by the largest of its kind.
            findings.close(f"{layout} gradient of {name}", gradient[own], value.grad, 1e-3, 1e3)
        del x, y, grad_x, grad_y, last, expected
        torch.cuda.empty_cache()
    return findings.result()


def large_mean(setting: Setting) -> None:
    """The mean of a tensor of more than 2^31 elements, and ACON-C with a beta from it."""
    _need_cuda(setting, gibibytes=30)
    x = torch.empty((2, 64, 4100, 4100), device=setting.device, dtype=torch.float16).normal_(mean=0.3)
    same, mean = F.input_and_mean(x)
    findings = Findings()
    findings.close("mean", mean, torch.stack([each.mean((1, 2), dtype=torch.float32) for each in x]), 1e-4)
    p1, p2 = (torch.randn(64, device=setting.device) for _ in range(2))
    y = F.acon_c(same, p1, p2, torch.sigmoid(mean))[1:, 63:]
    expected = kinds.acon_c(x[1:, 63:].double(), 1, p1[63:], p2[63:], torch.sigmoid(mean[1:, 63:]))
    findings.close("y", y, expected, 2e-3)
    del x, same, y, expected
    torch.cuda.empty_cache()
    findings.result()


def other_device(setting: Setting, kind: Kind) -> str:
    """Tensors on another GPU than the current one."""
    _need_cuda(setting)
    if torch.cuda.device_count() < 2:
        raise Skip("there is one GPU")
    other = torch.device("cuda", (torch.cuda.current_device() + 1) % torch.cuda.device_count())
    case = Case((4, 24, 9, 7))
    module = kind.random(case.channels, 1, setting.device).eval()
    x = inputs.random(case, torch.float32, setting.device)
    grad_y = torch.randn_like(x)
    expected = run(module, x, grad_y)
    got = run(copy.deepcopy(module).to(other), x.to(other), grad_y.to(other))
    findings = Findings()
    findings.close("y", got[0].to(setting.device), expected[0], 1e-5)
    findings.close("gradient of x", got[1].to(setting.device), expected[1], 1e-5)
    return f"{other}{findings.result()}"
