"""An ACON without ``num_channels`` takes its channels from the layer before it, when it is attached to its parent.

OpenMMLab's code builds activations by ``build_activation_layer(act_cfg)``, without the number of channels, and assigns
the result to an attribute of a module. PyTorch can call a hook at every such assignment. Our hook,
:func:`complete`, gives an ACON its channels, and does not touch other modules. The channels depend on the parent:

- ``ConvModule``: the channels at its activation, by its ``order``;
- ``nn.Sequential``: the output of the layer before. Layers that keep the channels (dropout, pooling, activations) are
  skipped;
- any other module: its convolutions, linear layers and norms so far, if all have the same number of channels;
- otherwise the channels stay unknown, and the ACON raises an error when it is called.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import takewhile
from typing import NamedTuple

from mmcv.cnn import ConvModule, DepthwiseSeparableConvModule
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from ..layers import Acon

#: The output of these layers has as many channels as their input, at the same dimension.
KEEPS_CHANNELS = (
    Acon,
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SiLU, nn.GELU, nn.Hardswish, nn.Mish, nn.Threshold),
    *(nn.Sigmoid, nn.Tanh, nn.Hardsigmoid, nn.Identity),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
    *(nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Upsample, nn.ZeroPad2d, nn.ReflectionPad2d),
)


class Channels(NamedTuple):
    """The number of channels of a feature map, and their dimension."""

    num_channels: int
    channel_dim: int


def complete(parent: nn.Module, name: str, module: nn.Module) -> None:
    """Set the channels of an ACON that is being attached to ``parent``, if the layers of ``parent`` show them.

    Raises:
        ValueError: the ACON was built with another number of channels, and the layer before is known for sure.
    """
    if not isinstance(module, Acon) or (module.num_channels is not None and module.channel_dim is not None):
        return
    module.location = f"{type(parent).__name__}.{name}"
    channels = channels_before(parent, name)
    if channels is None:
        return
    # In other modules the layer before is only a guess, so a different ``num_channels`` of the config is kept.
    certain = isinstance(parent, (ConvModule, nn.Sequential))
    if certain or module.num_channels in (None, channels.num_channels):
        module.set_channels(*channels)


def channels_before(parent: nn.Module, name: str) -> Channels | None:
    """The channels at the activation ``name`` of ``parent``, already there or being attached; None if unknown."""
    if isinstance(parent, ConvModule):
        conv_first = parent.order.index("conv") < parent.order.index("act")
        return Channels(parent.out_channels if conv_first else parent.in_channels, 1)
    if isinstance(parent, (nn.ModuleList, nn.ModuleDict)):
        return None
    earlier = takewhile(lambda item: item[0] != name, parent._modules.items())
    before = [child for _, child in earlier if child is not None]
    if isinstance(parent, nn.Sequential):
        return _channels_after(before)
    found = {channels for child in before if (channels := output_channels(child)) is not None}
    return found.pop() if len(found) == 1 else None


def _channels_after(layers: Iterable[nn.Module]) -> Channels | None:
    """The channels after a chain of layers; None if a layer's output is unknown."""
    for layer in reversed(list(layers)):
        if isinstance(layer, nn.Sequential):
            return _channels_after(layer)
        channels = output_channels(layer)
        if channels is not None or not keeps_channels(layer):
            return channels
    return None


def keeps_channels(layer: nn.Module) -> bool:
    """Whether the output of a layer has the channels of its input, at the same dimension."""
    return isinstance(layer, KEEPS_CHANNELS) or (isinstance(layer, nn.LayerNorm) and _moves_channels(layer))


def _moves_channels(layer: nn.LayerNorm) -> bool:
    """Whether it is a subclass as LayerNorm2d, which moves the channels before and after."""
    return type(layer).forward is not nn.LayerNorm.forward


def output_channels(layer: nn.Module) -> Channels | None:
    """The output channels of a layer, read from its class and attributes; None if unknown."""
    if isinstance(layer, (_ConvNd, ConvModule)):
        return Channels(layer.out_channels, 1)
    if isinstance(layer, DepthwiseSeparableConvModule):
        return Channels(layer.pointwise_conv.out_channels, 1)
    if isinstance(layer, nn.Linear):
        return Channels(layer.out_features, -1)
    if isinstance(layer, _NormBase):  # batch and instance norms; a lazy one has 0 until it runs
        return Channels(layer.num_features, 1) if layer.num_features else None
    if isinstance(layer, nn.GroupNorm):
        return Channels(layer.num_channels, 1)
    if isinstance(layer, nn.LayerNorm) and not _moves_channels(layer):
        # A norm over (C, H, W) has the channels first, a norm over (C,) has them at the last dimension.
        return Channels(layer.normalized_shape[0], 1 if len(layer.normalized_shape) > 1 else -1)
    if isinstance(layer, Acon) and layer.num_channels is not None and layer.channel_dim is not None:
        return Channels(layer.num_channels, layer.channel_dim)
    out_channels = getattr(layer, "out_channels", None)
    if hasattr(layer, "kernel_size") and isinstance(out_channels, int):
        return Channels(out_channels, 1)  # mmcv's deformable convolutions, which are not a _ConvNd
    return None


def input_channels(layer: nn.Module) -> Channels | None:
    """The channels that a layer takes; None if unknown."""
    if isinstance(layer, DepthwiseSeparableConvModule):
        layer = layer.depthwise_conv
    if isinstance(layer, nn.Linear):
        return Channels(layer.in_features, -1) if layer.in_features else None
    in_channels = getattr(layer, "in_channels", None)
    if isinstance(in_channels, int) and hasattr(layer, "kernel_size"):  # a convolution or ConvModule
        return Channels(in_channels, 1) if in_channels else None
    return output_channels(layer)  # of a norm
