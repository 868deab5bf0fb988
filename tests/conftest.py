import os

# Before PyTorch is imported: one thread in each process, so that two processes of pytest-xdist use two cores, and
# sums do not depend on the number of cores.
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

import torch

# Before triton is imported, which decides then whether its kernels are compiled or interpreted.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from helpers.tiny_runs import configs, trained  # noqa: F401  fixtures of a whole session
