"""The table entries, one small file for each family of upstream modules. Importing this package imports all files.

- ``backbones/``: backbones of mmdet and mmseg
- ``necks/``: necks of mmdet and mmseg
- ``det_heads/``: dense, box, mask and tracking heads of mmdet
- ``seg_heads/``: decode heads of mmseg
- ``layers/``: layers that several of them contain
"""

from importlib import import_module
from pkgutil import walk_packages

for _module in walk_packages(__path__, f"{__name__}."):
    import_module(_module.name)
