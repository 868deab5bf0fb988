"""One command from a config to an answer: which activation is better here? (``tools/analysis_tools/compare.py``)

- ``variants.py``: what is compared, and the config of each run
- ``hook.py``: what a run does beside training: it starts and draws as its twins do, and writes down what it sees
- ``execute.py``, ``progress.py``: the runs as processes, again after a kill, and the time that is left
- ``results.py``, ``statistics.py``: what came out
- ``figures.py``, ``page.py``, ``report.py``: figures, the HTML page and the other files
"""

from .hook import ComparisonHook

__all__ = ["ComparisonHook"]
