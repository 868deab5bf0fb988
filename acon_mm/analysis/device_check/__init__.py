"""Tells whether ACON is right and fast on a machine. ``tools/analysis_tools/check_device.py`` runs it.

Without OpenMMLab's packages only ``acon_mm/ops`` is checked: this package imports them where it says so.

- ``checks.py``: a check, its result, and how checks are chosen and run
- ``kinds.py``: the activations, each with its formula in plain PyTorch; ``inputs.py``: shapes and layouts
- ``correctness.py``: the list of all checks, which are in ``values.py``, ``gradients.py``, ``edges.py``,
  ``training_checks.py`` and ``cuda_checks.py``
- ``host.py``: the host's time a call; ``bandwidth.py``: time on large tensors; ``training_steps.py``: whole detectors
- ``report.py``: the machine in words, tables
"""
