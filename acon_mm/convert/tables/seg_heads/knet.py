"""K-Net of mmseg: the update of the kernels uses one activation at up to four sites."""

from typing import Any

from ...hosts import Host, HostSite, register_sites


@register_sites("mmseg.models.decode_heads.knet_head.KernelUpdator.forward")
class KernelUpdatorSites(Host):
    """``act`` on the updated kernels; ``gate_act``, ``param_act`` and ``input_act`` if the options ask for them."""

    calls = {"forward": ("self.gate_act", "self.param_act", "self.input_act", "self.act")}
    shared = "activation"

    @classmethod
    def sites(cls, module: Any) -> list[HostSite]:
        sites = [HostSite("gate_act", module.gate_norm)] if module.gate_norm_act else []
        if module.activate_out:
            sites += [HostSite("param_act", module.norm_out), HostSite("input_act", module.input_norm_out)]
        return [*sites, HostSite("act", module.fc_norm)]


@register_sites("mmseg.models.decode_heads.knet_head.IterativeDecodeHead.forward")
class IterativeDecodeHeadSites(Host):
    """It has no site of its own. The heads in it have."""

    takes_act_cfg = False  # its __init__ does not call the one of the base that takes it
