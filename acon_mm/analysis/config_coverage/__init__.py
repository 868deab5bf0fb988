"""Whether ``act_cfg`` works on every model that mmdet and mmseg ship; ``tools/coverage.py`` is the command.

- ``configs.py``: the shipped configs, and where ``act_cfg`` goes in them
- ``check.py``: one model, unchanged and with ACON everywhere
- ``samples.py``: what to run it on
- ``trace.py``: the ReLU-like calls that it makes
- ``run.py``: all of them; ``table.py``: the result
"""
