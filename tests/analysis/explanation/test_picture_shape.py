"""The height and width of the pictures in a config."""

import pytest
from mmengine.config import Config

from acon_mm.analysis.explanation.picture_shape import picture_shape
from acon_mm.errors import UserError


def loader(scale, **options):
    resize = dict(type="Resize", scale=scale, **options)
    inner = dict(type="CocoDataset", pipeline=[dict(type="LoadImageFromFile"), resize])
    return dict(dataset=dict(type="RepeatDataset", dataset=inner))


SIZE = dict(data_preprocessor=dict(size=(512, 1024)))
DIVISOR = dict(data_preprocessor=dict(pad_size_divisor=32))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (dict(model=SIZE, test_dataloader=loader((2048, 1024))), (512, 1024)),
        (dict(model={}, test_dataloader=loader((300, 200))), (200, 300)),
        (dict(model={}, test_dataloader=loader((200, 300))), (300, 200)),
        (dict(model={}, test_dataloader=loader((200, 300), keep_ratio=True)), (200, 300)),
        (dict(model=DIVISOR, test_dataloader=loader((1333, 800), keep_ratio=True)), (800, 1344)),
        (dict(model={}, train_dataloader=loader((64, 48))), (48, 64)),
    ],
)
def test_picture_shape(config, expected):
    assert picture_shape(Config(config)) == expected


def test_a_config_that_does_not_say_it():
    with pytest.raises(UserError, match="does not say how large its pictures are: add --shape HEIGHT WIDTH"):
        picture_shape(Config(dict(model={}, test_dataloader=loader(640))))
