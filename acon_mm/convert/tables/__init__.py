"""The table: one small file per family of upstream modules. Importing this package loads them all.

- ``backbones/``: of mmdet and mmseg
- ``necks/``
- ``det_heads/``: dense, RoI and mask heads of mmdet
- ``seg_heads/``: decode heads of mmseg
- ``layers/``: what several of them are made of
"""

from importlib import import_module
from pkgutil import walk_packages

for _module in walk_packages(__path__, f"{__name__}."):
    import_module(_module.name)
