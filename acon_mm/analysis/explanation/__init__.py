"""What a config becomes, before training. ``tools/analysis_tools/explain.py`` shows it.

- ``explain.py``: builds the model of a config, and lists its activations
- ``run.py``: runs the model once, and counts the calls of its activations
- ``picture_shape.py``: the size of a config's pictures
- ``report.py``: the result as text and JSON
"""

from .explain import Activation, Explanation, Kept, explain

__all__ = ["Activation", "Explanation", "Kept", "explain"]
