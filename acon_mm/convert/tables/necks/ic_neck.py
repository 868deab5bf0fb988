"""ICNeck of mmseg."""

from ...hosts import Host


class CascadeFeatureFusionSites(Host):
    """``act`` after the sum of the two resolutions."""

    upstream = ("mmseg.models.necks.ic_neck.CascadeFeatureFusion.forward",)
    calls = {"forward": ("self.act",)}
    before = {"act": "conv_high"}
    shared = None
