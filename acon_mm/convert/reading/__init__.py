"""Reading a module's ``forward``: which activations it calls, where in the source, and on how many channels.

The source is followed as Python would run it, but tensors are unknown :class:`~acon_mm.convert.values.Value`. What
depends on the module alone (its layers, options, loops over its layers) is known. Both ways of a condition on a tensor
are read.

- ``reader.py``: the methods of a module, one after the other
- ``statements.py``: assignments, conditions and loops
- ``expressions.py``: what an expression names or computes
- ``calls.py``: calls, of activations above all
- ``builtins_computed.py``: Python's own functions
- ``containers.py``: lists and dicts
- ``overwriting.py``: inputs that are changed in place
- ``handing.py``: what is given to another function
- ``own_functions.py``: where a class keeps functions
- ``things.py``: what names can stand for, and what is found
"""

from .own_functions import activating_functions
from .reader import read
from .things import Reading, Visit

__all__ = ["Reading", "Visit", "activating_functions", "read"]
