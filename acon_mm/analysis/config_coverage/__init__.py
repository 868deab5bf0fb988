"""Checks ``act_cfg`` on every config that mmdet and mmseg ship. ``tools/analysis_tools/config_coverage.py`` runs it.

- ``check.py``: one model, unchanged and with ACON everywhere
- ``passes.py``: runs both models; ``gradients.py``: which ACONs learn
- ``samples.py``: small batches of data
- ``trace.py``: the ReLU-like calls that a model makes
- ``check_all.py``: all configs, in parallel; ``table.py``: the result as Markdown
- ``build_time.py``: the time that ``act_cfg`` adds to a build
"""
