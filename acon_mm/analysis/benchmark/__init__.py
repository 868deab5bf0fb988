"""Measures ACON against named peers in one run, as ratios. ``tools/analysis_tools/benchmark.py`` runs it.

- ``measure.py``: interleaved timing, bytes kept for backward, the allocator
- ``peers.py``: the forms that ACON is compared with
- ``operators.py``: one activation on tensors of several shapes
- ``models.py``: detectors and segmentors
- ``report.py``: tables
"""
