"""``act_cfg`` on any module: one activation per site, in place, with everything else as it was.

- ``hosts.py``: modules whose children alone do not tell their sites; ``tables/``: these, family by family
- ``rewrite.py``: an upstream method with one activation per call
- ``sites.py``: finding sites and choosing among them
- ``convert.py``: the conversion of a built model
- ``building.py``: the conversion while a config is built
"""

from . import tables
from .convert import NoActivationsError, Report, convert_activations

__all__ = ["NoActivationsError", "Report", "convert_activations", "tables"]
