"""SSH of mmdet, the neck of a face detector."""

from typing import Any

from ...channels import Channels
from ...hosts import Host, HostSite, register_sites


@register_sites("mmdet.models.necks.ssh.SSHDetModule.forward")
class SSHDetModuleSites(Host):
    """``act`` after the three branches are concatenated."""

    shared = None
    calls = {"forward": ("self.act",)}

    @classmethod
    def sites(cls, module: Any) -> list[HostSite]:
        return [HostSite("act", module.context_module.conv7x7_3, channels=Channels(module.out_channels, 1))]
