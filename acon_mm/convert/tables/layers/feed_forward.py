"""Feed-forward networks of attention layers.

Their GELUs, and CLIP's approximation of one, are no ReLUs that grew up: networks are trained with them, and by default
nobody means them. Where a class takes ``act_cfg`` for them (Swin, PVT, MiT, ViT, ...), it gets it, and they become
ACONs.
"""

from torch import nn

from ...hosts import Host, HostSite

GELU = "a GELU in a transformer's feed-forward network: only the act_cfg of the class itself reaches it"


class FFNSites(Host):
    """``layers.N.1`` after each linear layer, but a GELU."""

    upstream = ("mmcv.cnn.bricks.transformer.FFN.forward",)
    shared = None

    @classmethod
    def sites(cls, module: nn.Module) -> list[HostSite]:
        hidden = [(i, layer) for i, layer in enumerate(module.layers) if isinstance(layer, nn.Sequential)]
        return [HostSite(f"layers.{i}.1", layer[0]) for i, layer in hidden if not _is_gelu(layer[1])]

    @classmethod
    def kept(cls, module: nn.Module) -> dict[str, str]:
        gelus = [name for name, layer in module.named_modules(remove_duplicate=False) if _is_gelu(layer)]
        return dict.fromkeys(gelus, GELU)


class MixFFNSites(FFNSites):
    """``layers.N`` after the depthwise convolution, or the first 1x1 convolution, but a GELU."""

    upstream = ("mmdet.models.backbones.pvt.MixFFN.forward", "mmseg.models.backbones.mit.MixFFN.forward")
    shared = "activate"  # mmseg's, which is also one of the layers

    @classmethod
    def sites(cls, module: nn.Module) -> list[HostSite]:
        convs = [layer for layer in module.layers if isinstance(layer, nn.Conv2d)]
        index = len(convs) - 1  # the last convolution comes after the activation
        if _is_gelu(module.layers[index]):
            return []
        return [HostSite(f"layers.{index}", module.layers[index - 1])]


def _is_gelu(layer: nn.Module) -> bool:
    return isinstance(layer, nn.GELU) or type(layer).__name__ == "QuickGELU"  # mmseg's, which need not be installed
