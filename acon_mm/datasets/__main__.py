"""Make the embedded sample up front: `python -m acon_mm.datasets [root]`."""

import sys

from .digits import ensure_digits

print(ensure_digits(*sys.argv[1:2]))
