"""Which layers made what is kept, against sizes by hand."""

import torch
from torch import nn

from acon_mm import AconC
from acon_mm.analysis.memory.layers import ACT, CONV, NORM, OTHER, SUM, kept_layers
from acon_mm.ops.memory import keep_outputs, recompute_outputs

C, SIZE = 16, 64
MAP = 4 * 2 * C * SIZE**2  # bytes of a map of two pictures


class Block(nn.Module):
    """A residual block, and a convolution that keeps its result."""

    def __init__(self, in_place: bool, **options):
        super().__init__()

        def act() -> nn.Module:
            return AconC(C, **options) if options else nn.ReLU(inplace=True)

        self.conv0, self.act0 = nn.Conv2d(C, C, 1), act()
        self.conv1, self.bn1, self.act1 = nn.Conv2d(C, C, 1), nn.BatchNorm2d(C), act()
        self.conv2, self.bn2, self.act2 = nn.Conv2d(C, C, 1), nn.BatchNorm2d(C), act()
        self.conv3, self.in_place = nn.Conv2d(C, 1, 1), in_place

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act0(self.conv0(torch.cat([x])))  # no module makes this input
        out = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        if self.in_place:
            out += x
        else:
            out = out + x
        return self.conv3(self.act2(out))


def kept(in_place: bool, **options) -> dict[tuple[str, str], int]:
    torch.manual_seed(0)
    model, x = Block(in_place, **options), torch.randn(2, C, SIZE, SIZE)

    def loss() -> torch.Tensor:
        result = model(x).square().mean()
        recompute_outputs(result)
        return result

    layers, called = kept_layers(model, loss, own=[x])
    assert called == ["conv0", "act0", "conv1", "bn1", "act1", "conv2", "bn2", "act2", "conv3"]
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
    return {(each.module, each.kind): each.bytes for each in layers}


AROUND = {("conv0", OTHER): MAP, **{(f"conv{i}", CONV): MAP for i in range(3)}, ("conv3", CONV): MAP // C}
MIDDLE = {("bn1", NORM): MAP, ("act2", SUM): MAP}


def test_relu_in_place_belongs_to_the_layer_before():
    assert kept(in_place=True) == kept(in_place=False) == AROUND | MIDDLE


def test_an_acon_keeps_its_input_only():
    assert kept(in_place=True, init="relu") == kept(in_place=False, init="relu") == AROUND | MIDDLE
    with keep_outputs():
        assert kept(in_place=True, init="relu") == AROUND | MIDDLE | {(f"act{i}", ACT): MAP for i in range(3)}


def test_least_keeps_what_convolutions_made():
    assert kept(in_place=False, memory="least") == AROUND
