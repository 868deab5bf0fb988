"""A batch norm and the ACON after it are one operator where nobody can tell: the same results, and only the norm's
input is kept. Everywhere else they run one by one."""

from __future__ import annotations

import copy
import weakref
from functools import partial

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu

from acon_mm import AconC
from acon_mm.compat import strict_zip
from acon_mm.ops.memory import keep_outputs, recompute_outputs
from helpers.normed import ACTS, Block, assert_same_one_by_one
from helpers.project import ROOT
from helpers.recomputation import NORMS, SIZE, C, gradients, picture


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("act", ACTS)
def test_gradients_are_the_same(act, norm, memory_format):
    net = Block(norm, act).double().to(memory_format=memory_format)
    assert_same_one_by_one(net, picture(torch.float64), tolerance=1e-11)
    assert net.is_one


@pytest.mark.parametrize("act", ["AconC", "MetaAconC"])
@pytest.mark.parametrize("norm", ["training", "evaluation"])
def test_gradients_in_float32(act, norm):
    """They are about as exact as one by one: the generator's norms may amplify what was rounded."""
    net, exact = Block(norm, act), Block(norm, act).double()
    wanted = gradients(exact, picture().double())
    with keep_outputs():
        one_by_one = gradients(copy.deepcopy(net), picture())
    found = gradients(net, picture())
    assert net.is_one
    greatest = max(each.abs().max() for each in wanted)

    def error(grads):
        return max((a.double() - b).abs().max() / greatest for a, b in strict_zip(grads, wanted))

    assert error(found) <= max(3 * error(one_by_one), 1e-6)


@pytest.mark.parametrize("shape", [(1, C, 8192), (3, C, 7, 31, 37), (2, C, 65, 63), (260, C, 5, 5)], ids=str)
@pytest.mark.parametrize("act", ["AconC", "MetaAconC"])
def test_shapes(act, shape):
    """Planes that do not fill the vectors, one that is smaller than a vector, and other ranks."""
    torch.manual_seed(0)
    norm = {3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape)](C).double()
    net = nn.Sequential(norm, ACTS[act](C, inplace=True).double())
    if act == "MetaAconC" and shape[0] in (1, 260):
        net.eval()  # no batch statistics of one sample
    assert_same_one_by_one(net, torch.randn(shape, dtype=torch.float64), lambda x: net(x * 1.0), 1e-11)


@pytest.mark.parametrize("norm", ["training", "evaluation"])
def test_autocast(norm):
    net = Block(norm)

    def forward(x):
        with torch.autocast("cpu", torch.bfloat16):
            return net(x)

    assert_same_one_by_one(net, picture(), forward, tolerance=2e-2)


def squared_gradients(net: nn.Module, x: Tensor) -> Tensor:
    x = x * 1.0
    inputs = [x, *(p for p in net.parameters() if p.requires_grad)]
    first = torch.autograd.grad(net(x).square().mean(), inputs, create_graph=True)
    return torch.stack([each.square().sum() for each in first])


@pytest.mark.parametrize("act", ["AconC", "MetaAconC"])
@pytest.mark.parametrize("norm", ["training", "evaluation", "without weights"])
def test_double_backward(act, norm):
    net = Block(norm, act).double()
    assert_same_one_by_one(net, picture(torch.float64), partial(squared_gradients, net), tolerance=1e-10)


def nodes_of(y: Tensor) -> list[str]:
    names, waiting, seen = [], [y.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            names.append(node.name())
            waiting += [each for each, _ in node.next_functions]
    return names


def test_one_node_keeps_the_input_of_the_norm_alone():
    x = picture()
    net = Block()
    y = net.act(net.norm(net.conv(x)))
    assert "NativeBatchNormBackward0" not in nodes_of(y)
    saved = weakref.ref(y)
    y = net.last(y).square().mean()
    recompute_outputs(y)
    assert saved() is None


def holds_output(net: Block, kept: list) -> None:
    net.norm.register_forward_hook(lambda module, inputs, y: kept.append((y, y.clone())))


def reads_input(net: Block, kept: list) -> None:
    net.act.register_forward_hook(lambda module, inputs, y: kept.append((inputs[0], inputs[0].clone())))


def retains_grad(net: Block, kept: list) -> None:
    net.norm.register_forward_hook(lambda module, inputs, y: y.retain_grad())


def has_tensor_hook(net: Block, kept: list) -> None:
    net.norm.register_forward_hook(lambda module, inputs, y: y.register_hook(lambda g: g * 2) and None)


def has_backward_hook(net: Block, kept: list) -> None:
    net.norm.register_full_backward_hook(lambda module, of_inputs, of_outputs: (of_inputs[0] * 2,))


def has_a_computed_weight(net: Block, kept: list) -> None:
    nn.utils.parametrizations.weight_norm(net.norm, "bias", dim=0)


def is_not_in_place(net: Block, kept: list) -> None:
    net.act.inplace = False


def is_a_group_norm(net: Block, kept: list) -> None:
    net.norm = nn.GroupNorm(4, C)


def is_changed_in_place(net: Block, kept: list) -> None:
    net.norm.register_forward_hook(lambda module, inputs, y: y.mul_(2))


@pytest.mark.parametrize(
    "change",
    [
        *(holds_output, reads_input, retains_grad, has_tensor_hook, has_backward_hook),
        *(has_a_computed_weight, is_not_in_place, is_a_group_norm, is_changed_in_place),
    ],
)
def test_one_by_one(change):
    net, kept = Block(), []
    change(net, kept)
    assert_same_one_by_one(net, picture())
    assert not net.is_one
    for tensor, value in kept:
        assert torch.equal(tensor, value)


@pytest.mark.parametrize("frozen", [["weight", "bias"], ["weight"], ["bias"]], ids=" ".join)
@pytest.mark.parametrize("norm", ["training", "evaluation"])
@pytest.mark.parametrize("second_order", [False, True], ids=["first order", "second order"])
def test_frozen_norms(norm, frozen, second_order):
    net = Block(norm).double()
    for name in frozen:
        getattr(net.norm, name).requires_grad_(False)
    forward = partial(squared_gradients, net) if second_order else None
    assert_same_one_by_one(net, picture(torch.float64), forward, tolerance=1e-10)
    assert net.is_one


def test_hooks_on_saved_tensors():
    net = Block()
    with save_on_cpu():
        net(picture().requires_grad_())
    assert not net.is_one


def test_without_gradients():
    net = Block()
    with torch.no_grad():
        net(picture())
    assert not net.is_one
    with torch.inference_mode():
        net(picture())
    assert not net.is_one


def test_the_input_of_the_norm_is_made_again():
    """After another ACON, which the norm's node keeps as a recipe, both run one by one."""
    net = nn.Sequential(nn.Conv2d(3, C, 1), AconC(C), nn.BatchNorm2d(C), AconC(C, inplace=True), nn.Conv2d(C, 4, 1))
    y = net[:4](picture())
    assert "NativeBatchNormBackward0" in nodes_of(y)
    assert_same_one_by_one(net, picture())


def test_small_maps():
    net = Block()
    net(picture()[:, :, :16, :16].requires_grad_())
    assert not net.is_one


class TwoNames(Block):
    def forward(self, x: Tensor) -> Tensor:
        x = z = self.norm(self.conv(x))
        y = self.act(x)
        return self.last(y) + z


def test_somebody_else_has_the_output():
    assert_same_one_by_one(TwoNames(), picture())


class UsedBefore(Block):
    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        mean = x.mean()
        x = self.act(x)
        return self.last(x) + mean


def test_the_output_was_used_before():
    """Its gradient goes to the norm by both ways."""
    assert_same_one_by_one(UsedBefore().double(), picture(torch.float64), tolerance=1e-11)


class SavedBefore(Block):
    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        square = x.square().mean()
        x = self.act(x)
        return self.last(x) + square


def test_another_operator_keeps_the_output():
    """Where PyTorch does not count it as somebody who has the output, it is an error as with ReLU in place."""
    net = SavedBefore()
    try:
        gradients(net, picture())
    except RuntimeError as error:
        assert "modified by an inplace operation" in str(error)
    else:
        assert_same_one_by_one(net, picture())


def test_the_weight_changes_before_backward():
    net = Block()
    loss = net(picture()).square().mean()
    with torch.no_grad():
        net.norm.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_gradient_that_somebody_holds_stays():
    net = Block()
    y = net.act(net.norm(net.conv(picture().requires_grad_())))
    gradient = torch.ones_like(y)
    y.backward(gradient)
    assert torch.equal(gradient, torch.ones_like(y))


def test_two_backward_passes():
    net = Block()
    loss = net(picture()).square().mean()
    first = torch.autograd.grad(loss, list(net.parameters()), retain_graph=True)
    second = torch.autograd.grad(loss, list(net.parameters()))
    for a, b in strict_zip(first, second):
        assert torch.equal(a, b)


def test_vmap():
    act = AconC(C, inplace=True)
    x = torch.randn(3, 2, C, SIZE, SIZE)
    assert torch.allclose(torch.func.vmap(act)(x), act(x.flatten(0, 1)).unflatten(0, (3, 2)), atol=1e-6)


@pytest.mark.parametrize("act", ["AconC", "MetaAconC"])
def test_a_model_from_its_config(act):
    """Most activations of a ResNet come after a norm, and the last one of a block after a sum."""
    from mmdet.registry import MODELS

    cfg = Config.fromfile(ROOT / "configs/detection/retinanet_r18_fpn_6e_digits.py").model
    cfg.backbone.update(act_cfg=dict(type=act), act_sites="all", init_cfg=None)
    init_default_scope("mmdet")
    torch.manual_seed(0)
    backbone = MODELS.build(cfg.backbone).double()
    backbone.train()
    assert_same_one_by_one(
        backbone,
        torch.randn(2, 3, 64, 64, dtype=torch.float64),
        lambda x: torch.cat([y.flatten() for y in backbone(x)]),
        tolerance=1e-9,
    )
    names = nodes_of(backbone(torch.randn(2, 3, 64, 64, dtype=torch.float64))[-1])
    assert sum("NormedAconC" in name or "MetaAconC<true>" in name for name in names) >= 3
