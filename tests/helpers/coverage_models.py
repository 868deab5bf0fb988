"""Backbones whose activations the check of the configs must judge, and a job that kills its process."""

import os

from mmcv.cnn import build_activation_layer
from torch import nn
from torch.nn import functional as F


class Relu(nn.Module):
    def __init__(self, channels=4):
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3)
        self.norm = nn.BatchNorm2d(channels)


class Silent(Relu):
    """Calls an activation that no module and no table tells of."""

    def forward(self, x):
        return (F.relu(self.norm(self.conv(x))).clamp(min=0, max=1),)


class Unknown(Silent):
    """Has an activation, and nobody knows what it does with it."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()


class TwoChannelCounts(Relu):
    """Takes ``act_cfg`` and calls one activation at two numbers of channels."""

    def __init__(self, act_cfg=dict(type="ReLU")):  # noqa: B006
        super().__init__()
        self.layers = nn.Sequential(self.conv, build_activation_layer(act_cfg))

    def forward(self, x):
        x = self.layers(x)
        return (self.layers[1](x.repeat(1, 2, 1, 1)),)


class Detached(Relu):
    """Its activation learns nothing."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(self.conv, nn.ReLU())

    def forward(self, x):
        x = self.layers[0](x)
        return (x + self.layers[1](x).detach(),)


class Unused(Relu):
    """What one of its branches computes goes nowhere."""

    def __init__(self):
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())

    def forward(self, x):
        self.branch(x)
        return (self.conv(x),)


class Dead(Relu):
    """A Sequential that is not called as one."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(self.conv, nn.ReLU())

    def forward(self, x):
        return (self.layers[0](x),)


class Pure(Relu):
    def forward(self, x):
        return (self.conv(x),)


BACKBONES = (Silent, Unknown, TwoChannelCounts, Detached, Unused, Dead, Pure)


def job(name, key, act_cfg):
    if name == "dies":
        os._exit(1)
    return {"key": key, "config": name, "status": "converted"}
