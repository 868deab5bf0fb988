"""The code of ``tools/analysis_tools``. Nothing else in the package imports it.

- ``benchmark/``: time and memory
- ``config_coverage/``: ``act_cfg`` on every config that mmdet and mmseg ship
- ``predictions.py``: pictures of truth and predictions
"""
