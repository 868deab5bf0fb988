"""What ``tools/benchmark.py`` measures: ACON against named peers in the same run, ratios instead of seconds.

- ``measure.py``: interleaved timing, bytes kept for backward, the allocator
- ``peers.py``: what ACON is compared with
- ``operators.py``: one activation on tensors of several shapes; ``models.py``: detectors and segmentors
- ``report.py``: tables
"""
