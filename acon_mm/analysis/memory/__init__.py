"""What a training step keeps in memory, with ReLU and with a config's ACONs: ``tools/analysis_tools/memory.py``.

- ``twins.py``: the model of a config, and its twin with ReLU
- ``step.py``: a training step on random pictures, and the memory that it takes
- ``layers.py``: which layer made what is kept
- ``measure.py``: both models, measured
- ``report.py``, ``figure.py``: the result as text, JSON and picture
"""

from .measure import Memory, measure

__all__ = ["Memory", "measure"]
