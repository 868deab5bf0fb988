"""Checkpoints: read without running code, checked when they are loaded, and converted.

- ``reading.py``: reading a file; ``mmengine_loaders.py``: the same for mmengine's own loaders
- ``loading.py``: the checked load; ``report.py``: its table
- ``official.py``: from the authors' files, whose layout is in ``authors.py``; ``relu.py``: from a ReLU network
- ``requirements.py``: what converted weights require of a model; ``acon_types.py``: which ACONs a state dict holds
"""

from .loading import load_state_dict
from .official import convert_official
from .reading import CheckpointError, load_checkpoint, weights_only
from .relu import convert_relu, start_as_relu
from .report import LoadReport

__all__ = [
    "CheckpointError",
    "LoadReport",
    "convert_official",
    "convert_relu",
    "load_checkpoint",
    "load_state_dict",
    "start_as_relu",
    "weights_only",
]
