"""Checkpoints: reading without running code, loading with checks, and conversion.

- ``reading.py`` reads files; ``mmengine_loaders.py`` holds what :mod:`acon_mm.patches` installs as mmengine's loaders
- ``loading.py`` loads a state dict: ``comparison.py`` finds the differences from the model, ``rules.py`` judges them,
  ``report.py`` makes the table for the log
- ``official.py`` converts files of the authors, which ``authors.py`` describes; ``relu.py`` converts ReLU networks
- ``requirements.py``: what converted weights require of a model
- ``acon_types.py``: which ACONs a model has, and which types a state dict has
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
