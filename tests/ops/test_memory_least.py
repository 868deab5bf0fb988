"""With memory='least', the input of an ACON is made again too: the same gradients, and less is kept. It is kept where
it cannot be made again."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from functools import partial

import pytest
import torch
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint

from acon_mm import AconA, AconB, AconC, MetaAconC
from acon_mm.compat import strict_zip
from acon_mm.ops.memory import keep_outputs, recompute_outputs
from helpers.recomputation import NORMS, C, gradients, picture

ACTS = {
    "AconA": AconA,
    "AconB": AconB,
    "AconC": partial(AconC, init="paper"),
    "MetaAconC": partial(MetaAconC, init="paper"),
    "MetaAconC layer": partial(MetaAconC, init="paper", generator="layer"),
}


def network(norm: str = "training", act: str = "AconC", memory: str = "least") -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, C, 3, padding=1, bias=False),
        NORMS[norm](),
        ACTS[act](C, memory=memory),
        nn.Conv2d(C, C, 3, padding=1),
    )
    for name, value in net[1].state_dict().items():
        if value.dtype.is_floating_point:
            nn.init.uniform_(value, 0.5, 1.5) if name in ("weight", "running_var") else nn.init.normal_(value)
    return net


class Residual(nn.Module):
    """Blocks as those of a ResNet; their last activation is of a sum."""

    def __init__(self, blocks: int = 5, memory: str = "least", act: str = "AconC", inplace: bool = True):
        super().__init__()
        torch.manual_seed(0)
        self.inplace = inplace
        self.stem = nn.Sequential(nn.Conv2d(3, C, 1, bias=False), nn.BatchNorm2d(C), ACTS[act](C, memory=memory))
        self.convs = nn.ModuleList(nn.Conv2d(C, C, 3, padding=1, bias=False) for _ in range(blocks))
        self.norms = nn.ModuleList(nn.BatchNorm2d(C) for _ in range(blocks))
        self.acts = nn.ModuleList(ACTS[act](C, memory=memory) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for conv, norm, act in strict_zip(self.convs, self.norms, self.acts):
            y = norm(conv(x))
            if self.inplace:
                y += x
            else:
                y = x + y
            x = act(y)
        return x


def with_memory(net: nn.Module, memory: str) -> nn.Module:
    for module in net.modules():
        if hasattr(module, "memory"):
            module.memory = memory
    return net


def assert_same_as_default(net: nn.Module, x: Tensor, forward: Callable | None = None, tolerance: float = 1e-6) -> None:
    """The gradients, relative to the greatest value of all; and what the step leaves in the buffers."""
    start = copy.deepcopy(net.state_dict())
    wanted = gradients(with_memory(net, "default"), x, forward)
    state = copy.deepcopy(net.state_dict())
    net.load_state_dict(start)
    found = gradients(with_memory(net, "least"), x, forward)
    greatest = max(b.abs().max() for b in wanted)
    for a, b in strict_zip(found, wanted):
        assert (a - b).abs().max() <= tolerance * greatest
    for name, value in net.state_dict().items():
        assert torch.equal(value, state[name]), name


def kept_inputs(net: nn.Module, x: Tensor) -> list[bool]:
    """For each ACON in the order of calls: whether something keeps its input after the loss."""
    inputs: list[weakref.ref] = []
    acts = [m for m in net.modules() if hasattr(m, "memory")]
    handles = [act.register_forward_pre_hook(lambda act, args: inputs.append(weakref.ref(args[0]))) for act in acts]
    loss = net(x).float().square().mean()
    recompute_outputs(loss)
    for handle in handles:
        handle.remove()
    return [each() is not None for each in inputs if loss.requires_grad]


@pytest.mark.parametrize("norm", NORMS)
def test_a_norm_before_it(norm):
    net = network(norm)
    assert kept_inputs(net, picture()) == [False]
    assert_same_as_default(net, picture())


@pytest.mark.parametrize("act", ACTS)
def test_by_activation(act):
    assert kept_inputs(network(act=act), picture()) == [False]
    assert kept_inputs(network(act=act, memory="default"), picture()) == [True]
    assert_same_as_default(network(act=act), picture())


@pytest.mark.parametrize("inplace", [True, False])
def test_sums(inplace):
    """One in four is kept, out of which the others are made."""
    net = Residual(inplace=inplace)
    assert kept_inputs(net, picture()) == [False] * 4 + [True, False]
    assert_same_as_default(net, picture())
    assert_same_as_default(Residual(act="MetaAconC"), picture())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_dtypes_and_layouts(dtype, layout):
    net = Residual().to(dtype).to(memory_format=layout)
    x = picture(dtype).to(memory_format=layout)
    assert kept_inputs(net, x) == [False] * 4 + [True, False]
    assert_same_as_default(net, x, tolerance=1e-12 if dtype == torch.float64 else 0.03)


def test_autocast():
    net = Residual()

    def forward(x):
        with torch.autocast("cpu", torch.bfloat16):
            return net(x)

    assert_same_as_default(net, picture(), forward, tolerance=0.03)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointing_and_other_hooks_on_saved_tensors(use_reentrant):
    net = network()
    assert_same_as_default(net.eval(), picture(), lambda x: checkpoint(net, x, use_reentrant=use_reentrant))

    def offloaded(x):
        with save_on_cpu():
            return net(x)

    assert_same_as_default(net, picture(), offloaded)


def test_retained_graph():
    net = network()
    loss = net(picture()).square().mean()
    recompute_outputs(loss)
    loss.backward(retain_graph=True)
    first = net[0].weight.grad.clone()
    loss.backward()
    assert torch.equal(net[0].weight.grad, 2 * first)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


@pytest.mark.parametrize("make", [network, Residual])
def test_double_backward(make):
    net = make()

    def second(x):
        (grad,) = torch.autograd.grad(net(x).square().mean(), x, create_graph=True)
        return grad

    assert_same_as_default(net, picture(), second)


def test_a_shared_norm_and_activation():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.stem = nn.Conv2d(3, C, 1, bias=False)
            self.conv = nn.Conv2d(C, C, 3, padding=1, bias=False)
            self.norm, self.act = nn.BatchNorm2d(C), AconC(C, init="paper", memory="least")

        def forward(self, x):
            x = self.act(self.norm(self.stem(x)))
            return self.act(self.norm(self.conv(x)))

    assert_same_as_default(Twice(), picture())


class SyncBatchNorm(torch.autograd.Function):
    """Keeps what PyTorch's keeps, in the same order, which runs on GPUs alone."""

    @staticmethod
    def forward(ctx, x, weight, bias, running_mean, running_var, eps, momentum, process_group, world_size):
        y, mean, rstd = torch.native_batch_norm(x, weight, bias, running_mean, running_var, True, momentum, eps)
        ctx.save_for_backward(x, weight, mean, rstd, torch.ones(1, dtype=torch.int32))
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx, grad):
        x, weight, mean, rstd, _ = ctx.saved_tensors
        of = torch.ops.aten.native_batch_norm_backward
        grads = of(grad, x, weight, None, None, mean, rstd, True, ctx.eps, [True] * 3)
        return *grads, *[None] * 6


def synchronized(net: nn.Module) -> nn.Module:
    def forward(norm, x):
        statistics = norm.running_mean, norm.running_var, norm.eps, norm.momentum
        return SyncBatchNorm.apply(x, norm.weight, norm.bias, *statistics, None, 2)

    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and module.weight is not None:
            module.forward = partial(forward, module)
    return net


@pytest.mark.parametrize("make", [network, Residual])
def test_after_synchronized_norms(make):
    net = synchronized(make())
    assert kept_inputs(net, picture()) == kept_inputs(make(), picture())
    assert_same_as_default(net, picture())
    net.get_submodule("1" if make is network else "norms.0").bias.requires_grad_(False)
    assert sum(kept_inputs(net, picture())) > sum(kept_inputs(make(), picture()))


def frozen(net: nn.Sequential) -> nn.Sequential:
    net[1].requires_grad_(False)
    return net


def group_norm(net: nn.Sequential) -> nn.Sequential:
    net[1] = nn.GroupNorm(4, C)
    return net


def without_norm(net: nn.Sequential) -> nn.Sequential:
    net[1] = nn.Identity()
    return net


@pytest.mark.parametrize("change", [frozen, group_norm, without_norm])
def test_after_what_it_cannot_be_made_of_it_is_kept(change):
    net = change(network())
    assert kept_inputs(net, picture()) == [True]
    assert_same_as_default(net, picture())


def test_small_inputs_are_kept():
    assert kept_inputs(network(), torch.randn(1, 3, 8, 8)) == [True]


def test_with_outputs_kept_inputs_are_kept_too():
    with keep_outputs():
        assert kept_inputs(network(), picture()) == [True]


def test_an_input_changed_in_place():
    """By autograd, or unseen by it."""
    for change in (lambda x: x.mul_(2), lambda x: x.detach().mul_(2)):
        net = network()

        def forward(x, net=net, change=change):
            y = net[1](net[0](x))
            change(y)
            return net[3](net[2](y))

        assert_same_as_default(net, picture(), forward)


def test_a_summand_changed_in_place_unseen_by_autograd():
    net = Residual(blocks=2)

    def forward(x):
        x = net.stem(x)
        x.detach().mul_(2)
        y = net.norms[0](net.convs[0](x))
        y += x
        return net.convs[1](net.acts[0](y))

    assert_same_as_default(net, picture(), forward)


def test_a_weight_of_the_norm_changed_before_backward_is_an_error():
    net = network()
    loss = net(picture()).square().mean()
    recompute_outputs(loss)
    with torch.no_grad():
        net[1].bias.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_freed_weight_of_the_norm_is_an_error():
    net = network()
    loss = net(picture()).square().mean()
    recompute_outputs(loss)
    net[1].weight.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match=r"was freed.*norm.*keep_outputs"):
        loss.backward()


def test_sums_of_others():
    """A scaled, a broadcast and a mixed one."""
    net = Residual(blocks=1)
    scale = torch.full((1, C, 1, 1), 0.5)

    for add in (
        lambda a, b: torch.add(a, b, alpha=0.5),
        lambda a, b: a + scale,
        lambda a, b: a + b.double(),
        lambda a, b: a + 1,
    ):

        def forward(x, add=add):
            x = net.stem(x)
            y = net.norms[0](net.convs[0](x))
            return net.acts[0](add(y, x))

        assert_same_as_default(net, picture(), forward)


@pytest.mark.slow
def test_compiled():
    net = network()
    torch._dynamo.reset()
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    assert_same_as_default(net, picture(), compiled)


def test_from_a_config():
    torch.manual_seed(0)
    act_cfg = dict(type="AconC", memory="least")
    net = MODELS.build(dict(type="mmdet.ResNet", depth=50, act_cfg=act_cfg, act_sites="all", norm_eval=True))
    net.train()
    kept = kept_inputs(HasOneOutput(net), torch.randn(1, 3, 256, 256))
    # Of the first 34, which have 256 KiB and more, the fourth sum of both stages that have so many.
    assert len(kept) == 49 and sum(kept[:34]) == 2


class HasOneOutput(nn.Module):
    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return sum(y.mean() for y in self.net(x))


def test_another_value_is_an_error():
    with pytest.raises(ValueError, match=r"memory must be one of 'default', 'least', got 'most'"):
        AconC(C, memory="most")
