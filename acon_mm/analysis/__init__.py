"""What ``tools/analysis_tools`` call. Nothing else of the package imports it.

- ``benchmark/``: time and memory
- ``config_coverage/``: ``act_cfg`` on every config that mmdet and mmseg ship
"""
