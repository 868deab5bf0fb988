"""Wrappers around a model, which hold its parameters or its code, and so would not see a conversion."""

from mmengine.model import is_model_wrapper
from torch import nn

#: by name, because importing them takes time
_WRAPPERS = {"DistributedDataParallel", "DataParallel", "FullyShardedDataParallel", "FSDPModule", "OptimizedModule"}


def refuse_wrappers(model: nn.Module) -> None:
    """Raise a ValueError if the model or a part of it is wrapped for several devices or compiled."""
    for name, module in model.named_modules():
        names = {base.__name__ for base in type(module).__mro__} & _WRAPPERS
        if names or is_model_wrapper(module):
            place = f"{name} is" if name else "it is"
            raise ValueError(
                f"{type(model).__name__} cannot be converted, because {place} wrapped by {type(module).__name__}, "
                "which would not know the new parameters: convert the model before it is wrapped"
            )
