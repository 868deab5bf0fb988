import os

import torch

# Before anything imports triton, which decides then whether its kernels are compiled or interpreted.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from helpers.tiny_runs import configs, trained  # noqa: F401  fixtures of a whole session
