"""``act_cfg`` on any module: one activation per site, in place, with everything else as it was.

- ``hosts.py``: modules whose sites share an activation; ``resnet.py``, ``heads.py``: these, family by family
- ``sites.py``: finding sites and choosing among them
- ``convert.py``: the conversion of a built model
- ``building.py``: the conversion while a config is built
"""

from . import heads, resnet
from .convert import Report, convert_activations

__all__ = ["Report", "convert_activations", "heads", "resnet"]
