"""PIDHead of mmseg. Its boundary branch ignores the head's ``act_cfg``."""

from ...hosts import Host


class BasePIDHeadSites(Host):
    """``act`` after the norm of one of the three branches."""

    upstream = ("mmseg.models.decode_heads.pid_head.BasePIDHead.forward",)
    before = {"act": "norm"}
    shared = None
