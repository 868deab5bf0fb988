"""``act_cfg`` on any module: each activation is replaced in place by one of its own; the rest of the model is kept.

- ``convert.py``: the conversion of a built model
- ``sites.py``: finding the activation sites of a model, and choosing among them
- ``hosts.py``: the base of the entries in ``tables/``, for classes whose children alone do not show their sites
- ``rewrite.py``: an upstream method that calls another activation at each site
- ``held.py``: methods that attributes hold
- ``channels.py``: the number of channels at a site
- ``registry.py``: the conversion of a model that is built from a config
"""

from . import tables
from .convert import NoActivationsError, Report, convert_activations
from .hosts import Host, HostSite, register_sites

__all__ = ["Host", "HostSite", "NoActivationsError", "Report", "convert_activations", "register_sites", "tables"]
