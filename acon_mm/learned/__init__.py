"""What activations have learned. ``tools/analysis_tools/show_activations.py``, a hook and the comparison show it.

- ``layer.py``: the slopes and betas of each layer, and what its channels have become
- ``betas.py``: the betas that Meta-ACON computes from pictures
- ``figures.py``: curves, spreads and maps
"""

from .betas import RecordedBetas
from .layer import KINDS, Layer, layers_of

__all__ = ["KINDS", "Layer", "RecordedBetas", "layers_of"]
