"""The operations of an ACON, against counts by hand."""

import pytest
from torch import nn

from acon_mm.analysis.explanation.flops import flops
from acon_mm.layers import AconA, AconB, AconC, AconFReLU, MetaAconC

SHAPE, ELEMENTS, SAMPLES, CHANNELS = (2, 32, 3, 5), 960, 2, 32
#: d x, beta d x, a sigmoid (4), their product, p x, the sum; and d for each channel
ACON_C = 9 * ELEMENTS + CHANNELS
#: a layer of 32 to 8 channels (C // 4), and one back
LAYERS = 2 * (2 * 32 * 8)


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        (AconA(32), 6 * ELEMENTS),
        (AconB(32), ACON_C),
        (AconC(32), ACON_C),
        # the mean, then for each sample: two layers, two norms, a sigmoid and the scale
        (MetaAconC(32, r=4, beta_scale=1), ACON_C + ELEMENTS + SAMPLES * (LAYERS + 2 * 8 + 2 * 32 + 4 * 32)),
        (MetaAconC(32, r=4, norm_cfg=None), ACON_C + ELEMENTS + SAMPLES * (LAYERS + 5 * 32)),
        (MetaAconC(32, generator="layer"), ACON_C + ELEMENTS + SAMPLES * 5),
        (MetaAconC(32, generator="pixel", beta_scale=1), ACON_C + 4 * ELEMENTS),
        # a window of 9 with its bias, two norms, a difference, a sigmoid, a product and a sum
        (AconFReLU(32), (18 + 2 + 2 + 7) * ELEMENTS),
        (AconFReLU(32, out_norm=False), (18 + 2 + 7) * ELEMENTS),
        (nn.ReLU(), None),
    ],
)
def test_flops(activation, expected):
    assert flops(activation, SHAPE) == expected


def test_channels_last():
    assert flops(AconC(32, channel_dim=-1), (10, 32)) == 9 * 320 + 32
