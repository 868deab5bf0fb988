import os
import random

# Before PyTorch is imported: one thread in each process, so that two processes of pytest-xdist use two cores, and
# sums do not depend on the number of cores.
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope

# Before triton is imported, which decides then whether its kernels are compiled or interpreted.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from helpers.tiny_runs import configs, trained  # noqa: F401  fixtures of a whole session

# These change what CPU tensors are for the rest of the process; tests/ops/test_gpu.py runs them in another one.
collect_ignore = [] if "STUB_DEVICE_KERNELS" in os.environ else ["ops/test_launches_from_cpp.py"]


def pytest_collection_modifyitems(items):
    from helpers.stacks import reason_to_skip

    for item in items:
        if reason := reason_to_skip(item.nodeid):
            item.add_marker(pytest.mark.skip(reason=reason))
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU, and there is none"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Seed before a test and its fixtures, so that random numbers do not depend on the tests before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def nothing_of_the_last_runner():
    """Forget its scope (mmdet or mmseg) and its loggers, which MMEngine keeps for the whole process."""
    DefaultScope._instance_dict.clear()
    for logger in MMLogger._instance_dict.values():
        for handler in logger.handlers:
            handler.close()
    MMLogger._instance_dict.clear()
