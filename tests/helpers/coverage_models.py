"""Small models that the check of the configs must judge, and a check that kills its process."""

import os

from mmcv.cnn import build_activation_layer
from torch import nn
from torch.nn import functional as F


class _Backbone(nn.Module):
    def __init__(self, channels=4):
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3)
        self.norm = nn.BatchNorm2d(channels)


class Functional(_Backbone):
    """Activates by a function that is no activation by its name, which reading does not see."""

    def forward(self, x):
        return (self.norm(self.conv(x)).clamp(min=0),)


class Unknown(_Backbone):
    """Activates in a function outside of the class."""

    def forward(self, x):
        return (_activated(self.norm(self.conv(x))),)


def _activated(x):
    return F.relu(x).clamp(max=6)


class TwoSizes(_Backbone):
    """Takes ``act_cfg`` and calls one activation on 4 and on 8 channels."""

    def __init__(self, act_cfg=dict(type="ReLU")):  # noqa: B006
        super().__init__()
        self.layers = nn.Sequential(self.conv, build_activation_layer(act_cfg))

    def forward(self, x):
        x = self.layers(x)
        return (self.layers[1](x.repeat(1, 2, 1, 1)),)


class Detached(_Backbone):
    """Detaches the output of its activation, which gets no gradient."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(self.conv, nn.ReLU())

    def forward(self, x):
        x = self.layers[0](x)
        return (x + self.layers[1](x).detach(),)


class Unused(_Backbone):
    """Does not use the output of a branch."""

    def __init__(self):
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())

    def forward(self, x):
        self.branch(x)
        return (self.conv(x),)


class NotCalled(_Backbone):
    """Calls the first layer of a Sequential alone."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(self.conv, nn.ReLU())

    def forward(self, x):
        return (self.layers[0](x),)


class NoActivation(_Backbone):
    def forward(self, x):
        return (self.conv(x),)


BACKBONES = (Functional, Unknown, TwoSizes, Detached, Unused, NotCalled, NoActivation)


def segmentor(backbone: str, **head) -> dict:
    """The config of a model with one of the backbones; ``head`` overrides settings of its decode head."""
    head = dict(type="FCNHead", in_channels=4, channels=4, num_convs=0, num_classes=2, concat_input=False) | head
    return dict(type="EncoderDecoder", backbone=dict(type=backbone), decode_head=head, test_cfg=dict(mode="whole"))


def check_job(job) -> dict:
    """Kills its process for the config ``dies``."""
    if job.config == "dies":
        os._exit(1)
    return {"key": job.key, "config": job.config, "status": "converted"}
