"""Weights that carry over: the authors' files, ReLU networks, yolov5's parameters; and a check of every load.

- ``authors.py``: the authors' layout; ``official.py``: its conversion; ``relu.py``: the start from ReLU weights
- ``notes.py``: what converted weights need of a model; ``kinds.py``: which ACON a state dict holds
- ``loading.py``: the checked load; ``report.py``: its table; ``hook.py``: the way out
- ``effect.py``: the check for mmengine's own loaders
"""

from .hook import LoadCheckHook
from .loading import load_state_dict
from .official import convert_official
from .relu import convert_relu, start_as_relu
from .report import LoadReport

__all__ = ["LoadCheckHook", "LoadReport", "convert_official", "convert_relu", "load_state_dict", "start_as_relu"]
