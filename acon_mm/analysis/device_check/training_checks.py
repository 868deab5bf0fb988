"""Small networks in training: compiled, in mixed precision, replicated."""

import copy
import shutil
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from ... import compat
from ...compat import strict_zip
from .checks import Findings, Setting, Skip
from .kinds import Kind


def network(kind: Kind, device: torch.device) -> tuple[nn.Sequential, nn.Sequential]:
    """A network with the activation, and one with the formula and the same parameters."""
    act = kind.random(16)
    ours = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), act, nn.Conv2d(16, 4, 3))
    plain = nn.Sequential(*(kind.plain(each) if each is act else copy.deepcopy(each) for each in ours))
    return ours.to(device), plain.to(device)


def compiled(setting: Setting, kind: Kind) -> str:
    """``torch.compile`` without a graph break, in training, with sizes that vary and do not compile again."""
    backend = "inductor" if setting.on_gpu or not setting.quick else "aot_eager"
    if backend == "inductor" and not setting.on_gpu and not (shutil.which("c++") or shutil.which("g++")):
        raise Skip("Inductor needs a C++ compiler")
    compat.reset_compiler()
    findings = Findings()
    # Without the convolutions, which Inductor may compile for each size.
    ours, plain = (net[1:3] for net in network(kind, setting.device))
    call = torch.compile(ours, fullgraph=True, dynamic=True, backend=backend)
    for count, (height, width) in enumerate(((24, 33), (33, 41), (41, 24), (47, 58))):
        findings.cases += 1
        x = torch.randn(4, 16, height, width, device=setting.device)
        # The first sizes may compile twice, because they may be equal to other numbers by chance.
        with compat.compiler_stance("default" if count < 2 else "fail_on_recompile"):
            y = call(x)
        expected = plain(x)
        findings.close(f"{height}x{width} y", y, expected, 1e-3)
        ours.zero_grad()
        plain.zero_grad()
        y.square().mean().backward()
        expected.square().mean().backward()
        close_gradients(f"{height}x{width}", ours, plain, findings)
    compat.reset_compiler()
    return f"{backend}, {findings.result()}"


def mixed_precision(setting: Setting, kind: Kind) -> str:
    """Steps of SGD under autocast: as the formula's, and with a gradient scaler where that is usual."""
    findings = Findings()
    ours, plain = network(kind, setting.device)
    dtype = torch.float16 if setting.on_gpu else torch.bfloat16
    seen: list[torch.dtype] = []
    ours[2].register_forward_hook(lambda module, args, y: seen.extend((args[0].dtype, y.dtype)))
    losses = [_losses(net, setting.device, dtype) for net in (ours, plain)]
    findings.that(len(set(seen)) == 1, f"the activation gets {seen[0]} and gives {seen[1]}")
    for step, (loss, expected) in enumerate(strict_zip(*losses)):
        findings.close(f"loss of step {step}", loss, expected, 3e-2)
    findings.that(all(torch.isfinite(p).all() for p in ours.parameters()), "parameters are not finite")
    return f"{str(dtype)[6:]}{findings.result()}"


def _losses(net: nn.Module, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """The losses of some steps. A step with an infinite loss must leave the parameters as they are."""
    scaler = torch.amp.GradScaler(device.type, init_scale=2.0**10, enabled=dtype == torch.float16)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    draw = torch.Generator().manual_seed(0)
    losses = []
    for step in range(6):
        x = torch.randn(8, 3, 20, 20, generator=draw).to(device)
        with torch.autocast(device.type, dtype=dtype):
            loss = (net(x).float() - 1).square().mean()
        overflow = scaler.is_enabled() and step == 3
        before = [p.detach().clone() for p in net.parameters()] if overflow else []
        scaler.scale(loss * float("inf") if overflow else loss).backward()
        scaler.step(optimizer)
        scaler.update()
        if not all(torch.equal(p, q) for p, q in zip(net.parameters(), before)):
            raise AssertionError("the gradient scaler did not see an infinite gradient")
        optimizer.zero_grad()
        losses.append(loss.detach())
    return losses


def replicated(setting: Setting, kind: Kind) -> str:
    """Calls from several threads at once, and DataParallel, are as a plain call."""
    findings = Findings()
    ours, _ = network(kind, setting.device)
    ours.eval()
    xs = [torch.randn(2, 3, 20, 20, device=setting.device) for _ in range(4)]
    expected = [ours(x) for x in xs]
    replicas = [copy.deepcopy(ours) for _ in xs]
    with ThreadPoolExecutor(len(xs)) as pool:
        got = list(pool.map(lambda net, x: net(x), replicas, xs))
        list(pool.map(lambda y: y.square().mean().backward(), got))
    for y, theirs in strict_zip(got, expected):
        findings.close("in threads", y, theirs, 1e-4)
    torch.stack([y.square().mean() for y in expected]).sum().backward()
    for parameter, *copies in strict_zip(ours.parameters(), *(r.parameters() for r in replicas)):
        grads = [each.grad for each in copies if each.grad is not None]
        if parameter.grad is not None:
            findings.close("gradients in threads", torch.stack(grads).sum(0), parameter.grad, 1e-3, 1e-3)
    if setting.on_gpu and not setting.device.index:
        parallel = nn.DataParallel(ours)
        findings.close(
            f"DataParallel on {len(parallel.device_ids)}", parallel(torch.cat(xs)), torch.cat(expected), 1e-4
        )
    return findings.result()


def moved(setting: Setting, kind: Kind) -> str:
    """A state dict goes on to another device, and gives the same there."""
    if setting.device.type == "cpu":
        raise Skip("there is no other device")
    findings = Findings()
    ours, _ = network(kind, setting.device)
    elsewhere, _ = network(kind, torch.device("cpu"))
    elsewhere.load_state_dict(ours.state_dict())
    x = torch.randn(4, 3, 20, 20)
    for training in (True, False):
        y = elsewhere.train(training)(x)
        findings.close(f"training {training}", ours.train(training)(x.to(setting.device)).cpu(), y, 1e-4)
    return findings.result()


def close_networks(label: str, ours: nn.Module, plain: nn.Module, tolerance: float, findings: Findings) -> None:
    """Parameters and floating point buffers of a network and its twin are close."""
    theirs = {name.replace(".module.", "."): t for name, t in plain.state_dict().items() if isinstance(t, Tensor)}
    for name, tensor in ours.state_dict().items():
        if tensor.is_floating_point():
            findings.close(f"{label} {name}", tensor, theirs[name], tolerance, 1e-2)


def close_gradients(label: str, ours: nn.Module, plain: nn.Module, findings: Findings, tolerance: float = 5e-3) -> None:
    """The gradients of the parameters of a network and its twin are close."""
    theirs = {name.replace(".module.", "."): p.grad for name, p in plain.named_parameters()}
    scale = 1e-2 * max(g.abs().max().item() for g in theirs.values() if g is not None)
    for name, parameter in ours.named_parameters():
        expected = theirs[name]
        if expected is not None:
            findings.close(f"{label} gradient of {name}", parameter.grad, expected, tolerance, scale)
