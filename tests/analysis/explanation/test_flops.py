"""The operations of an ACON by mmengine's counter, against counts by hand."""

import pytest
import torch
from mmengine.analysis import FlopAnalyzer
from torch import nn

from acon_mm.analysis.explanation.explain import operations
from acon_mm.layers import AconA, AconB, AconC, AconFReLU, MetaAconC

SHAPE, ELEMENTS, SAMPLES, CHANNELS = (2, 32, 3, 5), 960, 2, 32
#: for each element two products, a sigmoid (4), a product and a sum; for each channel p1 - p2 and beta times it
ACON_C = 8 * ELEMENTS + 2 * CHANNELS
#: the same with a beta for each sample
META = 8 * ELEMENTS + CHANNELS + SAMPLES * CHANNELS
#: a layer of 32 to 8 channels (C // 4), and one back: multiply-adds
LAYERS = 2 * (32 * 8)


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        (AconA(32), ACON_C),
        (AconB(32), ACON_C),
        (AconC(32), ACON_C),
        # the mean, then for each sample: two layers, two norms, a sigmoid and the scale
        (MetaAconC(32, r=4, beta_scale=1), META + ELEMENTS + SAMPLES * (LAYERS + 2 * 8 + 2 * 32 + 4 * 32)),
        (MetaAconC(32, r=4, norm_cfg=None), META + ELEMENTS + SAMPLES * (LAYERS + 5 * 32)),
        (MetaAconC(32, generator="layer"), META + ELEMENTS + SAMPLES * 5),
        # a product with beta for each element
        (MetaAconC(32, generator="pixel", beta_scale=1), 8 * ELEMENTS + CHANNELS + 6 * ELEMENTS),
        # a window of 9, two norms, a difference, a sigmoid, a product and a sum
        (AconFReLU(32), (9 + 2 + 2 + 7) * ELEMENTS),
        (AconFReLU(32, out_norm=False), (9 + 2 + 7) * ELEMENTS),
    ],
)
def test_flops(activation, expected):
    assert operations(activation, SHAPE) == expected


def test_mmengine_counts_nothing_else_of_ours():
    """Products and sums outside of ACONs cost nothing, as in mmengine."""

    class Model(nn.Module):
        def forward(self, x):
            return x.sigmoid() * x + x.mean()

    assert FlopAnalyzer(Model(), torch.rand(SHAPE)).unsupported_ops_warnings(False).total() == 0


def test_channels_last():
    assert operations(AconC(32, channel_dim=-1), (10, 32)) == 8 * 320 + 2 * 32
