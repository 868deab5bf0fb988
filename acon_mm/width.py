"""How an ACON gets its width when its config has none: from the layer before it, when it is attached to its parent.

OpenMMLab's code builds activations by ``build_activation_layer(act_cfg)``, without the number of channels, and assigns
the result to an attribute of a module. PyTorch tells a hook of every such assignment; ours completes the ACONs that
have no width yet and touches nothing else. Rules, by the kind of parent:

- ``ConvModule``: the channels at its activation, by its ``order``;
- ``nn.Sequential``: the layer before, looking through layers that keep the channels (dropout, pooling, activations);
- any other module: its convolutions, linear layers and norms so far, if all have the same width;
- otherwise nothing is guessed: the ACON stays without width, and says so when it is called.
"""

from collections.abc import Iterable
from itertools import takewhile
from typing import NamedTuple

from mmcv.cnn import ConvModule, DepthwiseSeparableConvModule
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.module import register_module_module_registration_hook

from .activations import Acon

# Layers whose output has the channels of their input, at the same dimension.
_KEEPS_CHANNELS = (
    Acon,
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SiLU, nn.GELU, nn.Hardswish, nn.Mish),
    *(nn.Sigmoid, nn.Tanh, nn.Hardsigmoid, nn.Identity),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
    *(nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Upsample, nn.ZeroPad2d, nn.ReflectionPad2d),
)


class Width(NamedTuple):
    """The channels of a feature: how many, and at which dimension."""

    num_channels: int
    channel_dim: int


def install():
    """Register the hook; ``remove()`` of the handle that is returned takes it away again."""
    return register_module_module_registration_hook(_complete)


def _complete(parent: nn.Module, name: str, module: nn.Module) -> None:
    if not isinstance(module, Acon) or (module.num_channels is not None and module.channel_dim is not None):
        return
    module.host = f"{type(parent).__name__}.{name}"
    width = width_at(parent, name)
    if width is None:
        return
    # Where the layer before is not known for sure, a width that the config tells is not contradicted.
    certain = isinstance(parent, (ConvModule, nn.Sequential))
    if certain or module.num_channels in (None, width.num_channels):
        module.set_width(*width)


def width_at(parent: nn.Module, name: str) -> Width | None:
    """The width of what ``parent`` feeds to its activation ``name``, present or about to be attached."""
    if isinstance(parent, ConvModule):
        conv_first = parent.order.index("conv") < parent.order.index("act")
        return Width(parent.out_channels if conv_first else parent.in_channels, 1)
    if isinstance(parent, (nn.ModuleList, nn.ModuleDict)):
        return None
    before = [child for _, child in takewhile(lambda item: item[0] != name, parent._modules.items())]
    if isinstance(parent, nn.Sequential):
        return _width_after(before)
    widths = {width for child in before if (width := output_width(child)) is not None}
    return widths.pop() if len(widths) == 1 else None


def _width_after(layers: Iterable[nn.Module]) -> Width | None:
    """The width after a chain of layers; None where a layer's output is not known."""
    for layer in reversed(list(layers)):
        if isinstance(layer, nn.Sequential):
            return _width_after(layer)
        width = output_width(layer)
        if width is not None or not isinstance(layer, _KEEPS_CHANNELS):
            return width
    return None


def output_width(layer: nn.Module) -> Width | None:
    """The width that a layer's class and attributes tell; None where they do not."""
    if isinstance(layer, (_ConvNd, ConvModule)):
        return Width(layer.out_channels, 1)
    if isinstance(layer, DepthwiseSeparableConvModule):
        return Width(layer.pointwise_conv.out_channels, 1)
    if isinstance(layer, nn.Linear):
        return Width(layer.out_features, -1)
    if isinstance(layer, _NormBase):  # batch and instance norms
        return Width(layer.num_features, 1)
    if isinstance(layer, nn.GroupNorm):
        return Width(layer.num_channels, 1)
    if isinstance(layer, nn.LayerNorm):
        # Over (C, H, W), channels come first; over (C,) alone they are the last dimension.
        return Width(layer.normalized_shape[0], 1 if len(layer.normalized_shape) > 1 else -1)
    if isinstance(layer, Acon) and layer.num_channels is not None and layer.channel_dim is not None:
        return Width(layer.num_channels, layer.channel_dim)
    if hasattr(layer, "kernel_size") and isinstance(getattr(layer, "out_channels", None), int):
        return Width(layer.out_channels, 1)  # mmcv's deformable convolutions are no _ConvNd
    return None
