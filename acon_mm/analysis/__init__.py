"""The code of ``tools/analysis_tools``. Nothing else in the package imports it.

- ``benchmark/``: time and memory
- ``device_check/``: whether a machine computes right, and how fast
- ``config_coverage/``: ``act_cfg`` on every config that mmdet and mmseg ship
- ``explanation/``: what a config becomes
- ``comparison/``: which activation is better on a config
- ``activations.py``: what the activations of a checkpoint have learned
- ``page/``: pages that need no network
- ``shipped_configs.py``: the configs of mmdet and mmseg, and where ``act_cfg`` goes in them
- ``build.py``: a model from such a config
- ``machine.py``: the processor in words
- ``predictions.py``: pictures of truth and predictions
"""
