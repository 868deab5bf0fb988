"""The small networks of mmseg: BiSeNetV2, CGNet, ERFNet and Fast-SCNN.

Most of their activations are in ConvModules. Here are the others. Several of these classes do not pass their
``act_cfg`` on to some of their blocks, or to any.
"""

from typing import Any

from torch import nn

from ...hosts import Host, HostSite


class GELayerSites(Host):
    """BiSeNetV2's gather-and-expansion layer: ``act`` after the sum."""

    upstream = ("mmseg.models.backbones.bisenetv2.GELayer.forward",)
    before = {"act": "conv2.0"}
    shared = None


class ContextGuidedBlockSites(Host):
    """CGNet: ``activate`` after the norm of the joint feature."""

    upstream = ("mmseg.models.backbones.cgnet.ContextGuidedBlock.forward",)
    before = {"activate": "bn"}
    shared = None


class ResamplerSites(Host):
    """ERFNet: ``act`` after the norm of a block that changes the resolution."""

    upstream = (
        "mmseg.models.backbones.erfnet.DownsamplerBlock.forward",
        "mmseg.models.backbones.erfnet.UpsamplerBlock.forward",
    )
    before = {"act": "bn"}
    shared = None


class NonBottleneck1dSites(Host):
    """ERFNet: one activation is several times in ``convs_layers``, and once more after the sum, as ``act``."""

    upstream = ("mmseg.models.backbones.erfnet.NonBottleneck1d.forward",)
    shared = "act"

    @classmethod
    def sites(cls, module: Any) -> list[HostSite]:
        layers = list(module.convs_layers)  # conv, act, conv, norm, act; ...; conv, act, conv, norm, dropout
        inner = [i for i in range(len(layers)) if i % 5 in (1, 4) and not isinstance(layers[i], nn.Dropout)]
        return [*(HostSite(f"convs_layers.{i}", layers[i - 1]) for i in inner), HostSite("act", layers[-2])]


class FeatureFusionSites(Host):
    """Fast-SCNN: ``relu`` after the sum of the two resolutions."""

    upstream = ("mmseg.models.backbones.fast_scnn.FeatureFusionModule.forward",)
    before = {"relu": "conv_higher_res"}
