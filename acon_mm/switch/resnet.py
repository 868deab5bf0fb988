"""ResNet of mmdet and mmseg: one ReLU serves a whole block, and one the stem.

Every class of the ResNet family that inherits these forwards is covered (ResNetV1c, ResNetV1d, ResNeXt, ...).
"""

import torch.utils.checkpoint as cp
from torch import Tensor, nn

from .hosts import Host, HostSite


class BasicBlockSites(Host):
    """conv1-norm1-``act1``-conv2-norm2-(+)-``act2``; the authors activate at both."""

    upstream = (
        "mmdet.models.backbones.resnet.BasicBlock.forward",
        "mmseg.models.backbones.resnet.BasicBlock.forward",
    )

    @staticmethod
    def sites(module: nn.Module) -> list[HostSite]:
        return [HostSite("act1", module.conv1, paper=True), HostSite("act2", module.conv2, paper=True)]

    def forward(self, x: Tensor) -> Tensor:
        def residual(x: Tensor) -> Tensor:
            out = self.act1(self.norm1(self.conv1(x)))
            out = self.norm2(self.conv2(out))
            identity = x if self.downsample is None else self.downsample(x)
            return out + identity

        return self.act2(_maybe_checkpoint(self, residual, x))


class BottleneckSites(Host):
    """conv1-norm1-``act1``-conv2-norm2-``act2``-conv3-norm3-(+)-``act3``; the authors activate at ``act2``."""

    upstream = (
        "mmdet.models.backbones.resnet.Bottleneck.forward",
        "mmseg.models.backbones.resnet.Bottleneck.forward",
    )

    @staticmethod
    def sites(module: nn.Module) -> list[HostSite]:
        return [
            HostSite("act1", module.conv1),
            HostSite("act2", module.conv2, paper=True),
            HostSite("act3", module.conv3),
        ]

    def forward(self, x: Tensor) -> Tensor:
        def residual(x: Tensor) -> Tensor:
            out = self.act1(self.norm1(self.conv1(x)))
            if self.with_plugins:
                out = self.forward_plugin(out, self.after_conv1_plugin_names)
            out = self.act2(self.norm2(self.conv2(out)))
            if self.with_plugins:
                out = self.forward_plugin(out, self.after_conv2_plugin_names)
            out = self.norm3(self.conv3(out))
            if self.with_plugins:
                out = self.forward_plugin(out, self.after_conv3_plugin_names)
            identity = x if self.downsample is None else self.downsample(x)
            return out + identity

        return self.act3(_maybe_checkpoint(self, residual, x))


class ResNetSites(Host):
    """The stem of a ResNet, ``relu`` after norm1, called ``stem``. A deep stem is a Sequential and needs no host."""

    upstream = (
        "mmdet.models.backbones.resnet.ResNet.forward",
        "mmseg.models.backbones.resnet.ResNet.forward",
    )
    is_backbone = True

    @staticmethod
    def sites(module: nn.Module) -> list[HostSite]:
        return [] if module.deep_stem else [HostSite("relu", module.conv1, name="stem")]

    def _freeze_stages(self) -> None:
        super()._freeze_stages()
        if self.frozen_stages >= 0:  # upstream freezes conv1 and norm1 only, since a ReLU has nothing to freeze
            self.relu.eval().requires_grad_(False)


def _maybe_checkpoint(block: nn.Module, residual, x: Tensor) -> Tensor:
    if block.with_cp and x.requires_grad:
        return cp.checkpoint(residual, x, use_reentrant=False)
    return residual(x)
