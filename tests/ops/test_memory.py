"""What an ACON made is made again in backward: the same gradients in less memory. It is kept where that cannot be."""

from __future__ import annotations

import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from functools import partial

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint

from acon_mm import AconA, AconB, AconC, MetaAconC
from acon_mm.compat import strict_zip
from acon_mm.ops.memory import keep_outputs, recompute_outputs
from helpers.recomputation import SIZE, C, gradients, picture

#: what may keep the output of an ACON, by name
KEEPERS: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: nn.Conv2d(C, 4, 3),
    "conv transposed": lambda: nn.ConvTranspose2d(C, 4, 2),
    "max pool": lambda: nn.MaxPool2d(2),
    "average pool": lambda: nn.AvgPool2d(2),
    "adaptive pool": lambda: nn.AdaptiveAvgPool2d(3),
    "batch norm": lambda: nn.BatchNorm2d(C),
    "group norm": lambda: nn.GroupNorm(4, C),
    "layer norm": lambda: nn.LayerNorm(SIZE),
    "linear": lambda: nn.Linear(SIZE, 3),
    "linear without bias": lambda: nn.Linear(SIZE, 3, bias=False),
    "flatten, linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(C * SIZE * SIZE, 3)),
}


class Product(nn.Module):
    """An output that is kept twice."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * x


KEEPERS["product"] = Product
ACTS = {
    "AconA": AconA,
    "AconB": AconB,
    "AconC": partial(AconC, init="paper"),
    "MetaAconC": partial(MetaAconC, init="paper"),
    "MetaAconC no norm": partial(MetaAconC, init="paper", norm_cfg=None),
    "MetaAconC layer": partial(MetaAconC, init="paper", generator="layer"),
}


def network(keeper: str = "conv", act: str = "AconC") -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, C, 3, padding=1), ACTS[act](C), KEEPERS[keeper]())


def assert_same_as_kept(net: nn.Module, x: torch.Tensor, forward: Callable | None = None) -> None:
    state = {name: value.clone() for name, value in net.state_dict().items() if name != "1._extra_state"}
    with keep_outputs():
        wanted = gradients(net, x, forward)
    net.load_state_dict(state, strict=False)
    found = gradients(net, x, forward)
    assert len(found) == len(wanted)
    for a, b in strict_zip(found, wanted):
        assert torch.equal(a, b)


def is_kept(net: nn.Module, x: torch.Tensor) -> bool:
    """Whether something keeps the output of the ACON after the loss."""
    outputs = []
    handle = net[1].register_forward_hook(lambda module, inputs, y: outputs.append(weakref.ref(y)))
    loss = net(x).float().square().mean()
    recompute_outputs(loss)
    handle.remove()
    return outputs[0]() is not None  # loss is still there


@pytest.mark.parametrize("act", ACTS)
def test_no_output_is_kept(act):
    net = network(act=act)
    assert not is_kept(net, picture())
    with keep_outputs():
        assert is_kept(net, picture())
    assert not is_kept(net, picture())
    assert_same_as_kept(net, picture())


@pytest.mark.parametrize("keeper", KEEPERS)
def test_by_what_keeps_it(keeper):
    net = network(keeper)
    assert not is_kept(net, picture())
    assert_same_as_kept(net, picture())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_dtypes_and_layouts(dtype, layout):
    net = network("average pool").to(dtype).to(memory_format=layout)
    x = picture(dtype).to(memory_format=layout)
    assert not is_kept(net, x)
    assert_same_as_kept(net, x)


def test_the_next_acon_lets_go_of_the_output_of_the_one_before():
    net = nn.Sequential(nn.Conv2d(3, C, 1), AconC(C), nn.Conv2d(C, C, 1), nn.BatchNorm2d(C), AconC(C))
    outputs = []
    net[1].register_forward_hook(lambda module, inputs, y: outputs.append(weakref.ref(y)))
    y = net(picture())
    assert outputs[0]() is None
    del y


def test_after_a_head_and_before_its_loss():
    """As in a model from a config: the head has no ACON behind its last convolution."""
    head = MODELS.build(
        dict(
            type="mmdet.RetinaHead",
            num_classes=2,
            in_channels=8,
            feat_channels=64,
            stacked_convs=1,
            act_cfg=dict(type="AconC"),
        )
    )
    outputs = []
    for act in head.modules():
        if isinstance(act, AconC):
            act.register_forward_hook(lambda act, inputs, y: outputs.append(weakref.ref(y)))
    scores, _ = head([torch.randn(1, 8, size, size) for size in (64, 32, 16, 8, 4)])
    assert scores[0].requires_grad
    assert [output() is None for output in outputs] == [True] * 4 + [False] * 6  # the last levels are small


def test_small_outputs_are_kept():
    net = network("average pool")
    assert is_kept(net, torch.randn(1, 3, 8, 8))


def test_nothing_changes_without_gradients():
    net = network().eval()
    with torch.no_grad():
        assert net(picture()).grad_fn is None


def test_an_input_with_less_memory_than_elements():
    """As after ``expand``."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 1, 3, padding=1), nn.Identity(), nn.Conv2d(C, 4, 3))
    act = AconC(C, init="paper")
    assert_same_as_kept(net, picture(), lambda x: net[2](act(net[0](x).expand(-1, C, -1, -1))))


def test_an_output_in_two_places():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.act, self.a, self.b = AconC(3, init="paper"), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            y = self.act(x)
            return self.a(y) + self.b(y) + y

    torch.manual_seed(0)
    x = torch.randn(2, 3, 128, 128)
    assert_same_as_kept(Block(), x)


def test_autocast():
    net = network()

    def forward(x):
        with torch.autocast("cpu", torch.bfloat16):
            return net(x)

    assert_same_as_kept(net, picture(), forward)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointing(use_reentrant):
    net = network()
    assert_same_as_kept(net, picture(), lambda x: checkpoint(net, x, use_reentrant=use_reentrant))
    # The ACON within, what keeps its output outside.
    inner = net[:2]
    assert_same_as_kept(net, picture(), lambda x: net[2](checkpoint(inner, x, use_reentrant=use_reentrant)))


def test_hooks_on_saved_tensors_decide_themselves():
    net = network()

    def forward(x):
        with save_on_cpu():
            return net(x)

    assert_same_as_kept(net, picture(), forward)

    def half(x):
        with save_on_cpu():
            y = net[:2](x)
        return net[2](y)

    assert_same_as_kept(net, picture(), half)


def test_retained_graph():
    net = network()
    x = picture().requires_grad_()
    loss = net(x).square().mean()
    recompute_outputs(loss)
    loss.backward(retain_graph=True)
    first = net[2].weight.grad.clone()
    loss.backward()
    assert torch.equal(net[2].weight.grad, 2 * first)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_double_backward():
    net = network()

    def second(x):
        (grad,) = torch.autograd.grad(net(x).square().mean(), x, create_graph=True)
        return grad

    assert_same_as_kept(net, picture(), second)


def test_a_user_holds_the_output():
    net = network()
    y = net[:2](picture())
    y.retain_grad()
    seen = []
    y.register_hook(lambda grad: seen.append(grad.clone()))
    before = y.detach().clone()
    loss = net[2](y).square().mean()
    recompute_outputs(loss)
    loss.backward()
    assert torch.equal(y, before) and torch.equal(y.grad, seen[0]) and y.grad.abs().sum() > 0


def test_an_output_changed_in_place_before_it_is_saved_is_kept():
    net = network()

    def seen_by_autograd(x):
        return net[2](net[1](net[0](x)).mul_(2))

    def unseen(x):
        y = net[1](net[0](x))
        y.detach().mul_(2)
        return net[2](y)

    assert_same_as_kept(net, picture(), seen_by_autograd)
    assert_same_as_kept(net, picture(), unseen)


def test_an_output_changed_in_place_after_it_was_saved():
    net = network()
    with keep_outputs():
        wanted = gradients(net, picture())
    x = picture().requires_grad_()
    y = net[:2](x)
    loss = net[2](y).float().square().mean()
    recompute_outputs(loss)
    net.zero_grad()
    with torch.no_grad():
        y.zero_()  # PyTorch refuses that where y is kept; here it does no harm
    loss.backward()
    for a, b in strict_zip([x.grad, *(p.grad for p in net.parameters())], wanted):
        assert torch.equal(a, b)


def test_an_input_or_parameter_changed_in_place_is_an_error():
    net = network()
    for change in (lambda x: x.mul_(2), lambda x: net[1].p1.mul_(2)):
        x = net[0](picture())
        loss = net[2](net[1](x)).square().mean()
        recompute_outputs(loss)
        with torch.no_grad():
            change(x)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_freed_parameters_are_an_error():
    net = network()
    loss = net(picture()).square().mean()
    recompute_outputs(loss)
    net[1].p1.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match=r"parameter of an ACON was freed.*keep_outputs"):
        loss.backward()


def test_parameters_made_of_others_are_kept():
    net = network()
    parameters = {name: 2 * p for name, p in net.named_parameters()}
    outputs = []
    net[1].register_forward_hook(lambda module, inputs, y: outputs.append(weakref.ref(y)))
    loss = torch.func.functional_call(net, parameters, picture()).square().mean()
    recompute_outputs(loss)
    assert outputs[0]() is not None


@pytest.mark.slow
def test_compiled():
    net = network()
    torch._dynamo.reset()
    compiled = torch.compile(net, backend="aot_eager")
    with keep_outputs():
        wanted = gradients(net, picture(), compiled)
    for a, b in strict_zip(gradients(net, picture(), compiled), wanted):
        torch.testing.assert_close(a, b)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor")  # PyTorch's own tracing
def test_compiled_backward():
    net = network()
    with torch._dynamo.compiled_autograd._enable(lambda graph: torch.compile(graph, backend="eager")):
        assert_same_as_kept(net, picture())


def test_environment_variable():
    """Without it, outputs are made again: the other tests see that."""
    code = "import torch; from acon_mm.ops import memory; print(torch.ops.acon_mm.set_recomputation(True))"
    env = os.environ | {"ACON_MM_KEEP_OUTPUTS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
