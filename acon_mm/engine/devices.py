"""Distributed runs, SyncBN and mixed precision on a machine without CUDA, where MMEngine and mmcv do not have them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import MODEL_WRAPPERS, OPTIM_WRAPPERS
from mmengine.runner.amp import autocast
from torch.autograd import Function

from ..errors import UserError
from ..registering import register

RANK_VARIABLES = {
    "pytorch": ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    "slurm": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
    "mpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
}


def open_process_group(launcher: str) -> None:
    """Open the gloo group of a distributed run. MMEngine cannot do this without CUDA, but uses a group that is open."""
    rank, size, local_rank = (os.environ[name] for name in RANK_VARIABLES[launcher])
    os.environ.update(RANK=rank, WORLD_SIZE=size, LOCAL_RANK=local_rank)
    os.environ.setdefault("MASTER_PORT", "29500")
    if "MASTER_ADDR" not in os.environ:
        os.environ["MASTER_ADDR"] = _first_slurm_node()
    dist.init_process_group("gloo")


def _first_slurm_node() -> str:
    command = ["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[0]


def fit_config(cfg: Config) -> None:
    """Replace the wrappers of model and optimizer that need CUDA by the classes below.

    Raises:
        UserError: the config of a distributed run has a model wrapper other than `MMDistributedDataParallel`.
    """
    optim_wrapper = cfg.get("optim_wrapper")
    if optim_wrapper and optim_wrapper.get("type") in ("AmpOptimWrapper", AmpOptimWrapper):
        for key in ("loss_scale", "dtype", "use_fsdp"):
            optim_wrapper.pop(key, None)
        optim_wrapper.type = "BFloat16OptimWrapper"
    if cfg.launcher != "none":
        wrapper = cfg.get("model_wrapper_cfg") or {}
        name = wrapper.get("type", "MMDistributedDataParallel")
        if name not in ("MMDistributedDataParallel", "AnyDeviceDistributedDataParallel"):
            raise UserError(
                f"a distributed run on CPU needs model_wrapper_cfg.type MMDistributedDataParallel, not {name}"
            )
        defaults = {"broadcast_buffers": False, "find_unused_parameters": cfg.get("find_unused_parameters", False)}
        cfg.model_wrapper_cfg = {**defaults, **wrapper, "type": "AnyDeviceDistributedDataParallel"}


@register(MODEL_WRAPPERS)
class AnyDeviceDistributedDataParallel(MMDistributedDataParallel):
    """`MMDistributedDataParallel` that also wraps a model on CPU.

    On CPU it uses no `device_ids`, and replaces SyncBN, which needs CUDA, by BN. It replaces SyncBN in the model and
    not in the config, since SyncBN may also be the default of a class or come from `cfg.sync_bn`.
    """

    def __init__(self, module: torch.nn.Module, device_ids: list[int] | None = None, **kwargs: Any) -> None:
        if get_device() == "cpu":
            device_ids = None
            # By name, since mmcv's SyncBN is not a subclass of PyTorch's.
            found = sum(type(each).__name__ == "SyncBatchNorm" for each in module.modules())
            if found:
                print_log(f"SyncBN does not work without CUDA: {found} layers are replaced by BN.", logger="current")
                module = revert_sync_batchnorm(module)
        super().__init__(module=module, device_ids=device_ids, **kwargs)


@register(OPTIM_WRAPPERS)
class BFloat16OptimWrapper(OptimWrapper):
    """Mixed precision in bfloat16, on CPU too. The range of bfloat16 makes loss scaling unnecessary."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        print_log("Mixed precision in bfloat16, without loss scaling.", logger="current")

    @contextmanager
    def optim_context(self, model: torch.nn.Module) -> Iterator[None]:
        with super().optim_context(model), autocast(dtype=torch.bfloat16), _mmcv_in_float32():
            yield

    def backward(self, loss: torch.Tensor, **kwargs: Any) -> None:
        with _mmcv_in_float32():
            super().backward(loss, **kwargs)


@contextmanager
def _mmcv_in_float32() -> Iterator[None]:
    """A context in which mmcv's operators (RoIAlign, nms, ...) accept bfloat16 on CPU. Their C++ code does not."""
    plain = {
        (each, name): vars(each)[name]
        for path, module in list(sys.modules.items())
        if path.startswith("mmcv.ops.")
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, Function)
        for name in ("forward", "backward")
        if name in vars(each)
    }
    try:
        for each, name in plain:
            setattr(each, name, staticmethod(_in_float32(getattr(each, name))))
        yield
    finally:
        for (each, name), function in plain.items():
            setattr(each, name, function)


def _in_float32(function: Callable) -> Callable:
    """`function(ctx, *args)` in float32 instead of bfloat16. The result has the type of the first tensor."""

    def is_half(value: Any) -> bool:
        return isinstance(value, torch.Tensor) and value.dtype == torch.bfloat16 and value.device.type == "cpu"

    def cast(ctx: Any, *args: Any) -> Any:
        if not any(map(is_half, args)):
            return function(ctx, *args)
        with torch.autocast("cpu", enabled=False):
            out = function(ctx, *(arg.float() if is_half(arg) else arg for arg in args))
        if not is_half(next(arg for arg in args if isinstance(arg, torch.Tensor))):
            return out
        outs = out if isinstance(out, tuple) else (out,)
        half = tuple(
            each.bfloat16() if isinstance(each, torch.Tensor) and each.is_floating_point() else each for each in outs
        )
        return half if isinstance(out, tuple) else half[0]

    return cast
