"""Make the embedded sample: `python -m acon_mm.datasets [DIRECTORY]`."""

import sys

from .digits import ensure_digits

try:
    print(ensure_digits(sys.argv[1]) if len(sys.argv) > 1 else ensure_digits())
except OSError as error:
    sys.exit(f"error: {error}")
