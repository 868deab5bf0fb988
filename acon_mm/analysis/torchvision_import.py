"""torchvision beside a PyTorch that it was not compiled for."""

from importlib.util import find_spec

import torch

_libraries: list[torch.library.Library] = []


def import_torchvision() -> None:
    """Let timm, mmpretrain and transformers import torchvision, if it is installed.

    The torchvision of PyPI is compiled for CUDA. Beside a PyTorch for CPUs its operators do not load, and its Python
    code stops at the first that is missing. Networks call none of them, so it is enough that their names are there.
    """
    if _libraries or find_spec("torchvision") is None:
        return
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _libraries.append(library)
