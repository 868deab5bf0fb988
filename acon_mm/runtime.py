"""What `tools/train.py` and `tools/test.py` share: flags, config, checks before the start, devices."""

import argparse
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from mmengine.optim import OptimWrapper
from mmengine.registry import DATASETS, MODEL_WRAPPERS, OPTIM_WRAPPERS, RUNNERS
from mmengine.runner import Runner
from mmengine.runner.amp import autocast

from .checkpoints import CheckpointError, load_checkpoint

PACKAGES = {"mmdet": "mmdet", "mmseg": "mmsegmentation"}
RANK_VARIABLES = {
    "pytorch": ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    "slurm": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
    "mpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
}


class UserError(RuntimeError):
    """What the caller of a tool can put right: shown as one line, without a traceback."""


def argument_parser(description: str) -> argparse.ArgumentParser:
    """The arguments that both tools take."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("config", help="config file")
    parser.add_argument("--work-dir", help="directory for logs and checkpoints (default: work_dirs/CONFIG_NAME)")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        metavar="KEY=VALUE",
        help='override settings of the config: a.b=1, or for lists a="[1,2]" and a.0.b=1',
    )
    parser.add_argument("--launcher", choices=["none", *RANK_VARIABLES], default="none", help="who started this job")
    # torch.distributed.launch passes it; the rank is read from the environment, where it is as well.
    parser.add_argument("--local_rank", "--local-rank", help=argparse.SUPPRESS)
    return parser


@contextmanager
def session(launcher: str) -> Iterator[None]:
    """Surroundings of a tool: one line for what the user can put right, checkpoints without code, process group.

    Exits with status 1 after a `UserError` or `CheckpointError`, told on stderr by the first process of each machine.
    """
    try:
        with _weights_only(), _process_group(launcher):
            yield
    except (UserError, CheckpointError) as error:
        if launcher == "none" or os.environ.get(RANK_VARIABLES[launcher][2], "0") == "0":
            print("error:", " ".join(str(error).split()), file=sys.stderr)
        raise SystemExit(1) from None


@contextmanager
def _weights_only() -> Iterator[None]:
    """Holds every `torch.load` to `weights_only=True`, as loaders exist that fall back to False when True fails."""
    opt_out, force = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    if os.environ.get(opt_out, "0") != "0":
        raise UserError(f"{opt_out} is set, which lets a checkpoint run any code: unset it")
    before = os.environ.get(force)
    os.environ[force] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[force]
        else:
            os.environ[force] = before


@contextmanager
def _process_group(launcher: str) -> Iterator[None]:
    """Opens the gloo group of a distributed run on CPU, which MMEngine cannot; leaves other devices to MMEngine."""
    if launcher != "none":
        missing = [name for name in RANK_VARIABLES[launcher] if name not in os.environ]
        if missing:
            raise UserError(
                f"--launcher {launcher} needs {', '.join(missing)} in the environment: start the job with "
                "tools/dist_train.sh, tools/dist_test.sh or tools/slurm_train.sh"
            )
        if get_device() == "cpu":
            rank, size, local_rank = (os.environ[name] for name in RANK_VARIABLES[launcher])
            os.environ.update(RANK=rank, WORLD_SIZE=size, LOCAL_RANK=local_rank)
            os.environ.setdefault("MASTER_PORT", "29500")
            if "MASTER_ADDR" not in os.environ:
                os.environ["MASTER_ADDR"] = _first_node(launcher)
            dist.init_process_group("gloo")
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def _first_node(launcher: str) -> str:
    if launcher != "slurm":
        raise UserError(f"--launcher {launcher} needs MASTER_ADDR in the environment: the address of rank 0")
    command = ["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[0]


def load_config(args: argparse.Namespace, needs: tuple[str, ...]) -> Config:
    """The config of `args`, with `--cfg-options`, `--launcher` and `--work-dir` merged in.

    Raises:
        UserError: the file or one of its bases is missing or of an unknown kind, `default_scope` is neither mmdet
            nor mmseg, or a top level key in `needs` is missing.
    """
    try:
        cfg = Config.fromfile(args.config)
    except OSError as error:
        reason = "no such file" if not Path(args.config).exists() else error
        raise UserError(f"cannot read config {args.config}: {reason}") from error
    if args.cfg_options is not None:
        try:
            cfg.merge_from_dict(args.cfg_options)
        except (KeyError, TypeError) as error:
            raise UserError(f"--cfg-options does not fit {args.config}: {error.args[0]}") from error
    scope = cfg.get("default_scope")
    if scope not in PACKAGES:
        raise UserError(f"default_scope of {args.config} must be mmdet (detection) or mmseg (segmentation), not {scope}")
    if importlib.util.find_spec(scope) is None:
        raise UserError(f"{args.config} needs {scope}, which is not installed: pip install {PACKAGES[scope]}")
    absent = [key for key in needs if cfg.get(key) is None]
    if absent:
        raise UserError(f"{args.config} has no {', '.join(absent)}: add it, or inherit it by _base_")
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get("work_dir") or str(Path("work_dirs", Path(args.config).stem))
    return cfg


def check_checkpoint(path: str, to_resume: bool = False) -> None:
    """Fail now, not once the data is loaded, if a local checkpoint cannot be used. Skips URLs and model zoos.

    Raises:
        CheckpointError: see `load_checkpoint`.
        UserError: `to_resume`, and there is no training state in it.
    """
    if "://" in path:
        return
    checkpoint = load_checkpoint(Path(path).expanduser())
    absent = [key for key in ("meta", "message_hub", "optimizer") if key not in checkpoint]
    if to_resume and absent:
        raise UserError(
            f"cannot resume from {path}: it has no {', '.join(absent)}. "
            f"To start from its weights: --cfg-options load_from={path}"
        )


def check_data(cfg: Config, *loaders: str) -> None:
    """Raise UserError if an annotation file or an image directory of these data loaders is missing.

    A dataset class with the attribute `makes_own_data = True` makes its files itself and is not checked, nor is one
    that reads from elsewhere than the local disk.
    """
    for loader in loaders:
        for dataset in _innermost(cfg[loader].dataset):
            backend = (dataset.get("backend_args") or {}).get("backend", "local")
            if backend != "local" or getattr(_dataset_class(dataset, cfg.default_scope), "makes_own_data", False):
                continue
            for key, path in _data_paths(dataset):
                if "://" not in path and not Path(path).exists():
                    raise UserError(
                        f"the data set of {loader} is not there: {key} is {path}. "
                        f"Put it there, or name its place: --cfg-options {loader}.dataset.data_root=DIRECTORY"
                    )


def _innermost(dataset: ConfigDict) -> Iterator[ConfigDict]:
    """The datasets inside of wrappers such as RepeatDataset and ConcatDataset."""
    inner = dataset.get("datasets") or [dataset[key] for key in ("dataset",) if key in dataset]
    if not inner:
        yield dataset
    for each in inner:
        yield from _innermost(each)


def _data_paths(dataset: ConfigDict) -> Iterator[tuple[str, str]]:
    """Setting and path of all that MMEngine's `BaseDataset` finds below `data_root`."""
    root = dataset.get("data_root") or ""
    prefixes = dataset.get("data_prefix") or {}
    if isinstance(prefixes, str):
        prefixes = {"img": prefixes}
    settings = {"ann_file": dataset.get("ann_file"), **{f"data_prefix.{key}": path for key, path in prefixes.items()}}
    for key, path in {"data_root": "", **settings}.items():
        if isinstance(path, str) and (path or root):
            yield key, os.path.join(root, path)


def _dataset_class(dataset: ConfigDict, scope: str) -> type | None:
    """None for an unknown name, for which building the dataset has the better error."""
    kind = dataset.type
    if not isinstance(kind, str):
        return kind
    try:
        return DATASETS.get(kind if "." in kind else f"{scope}.{kind}")
    except RuntimeError:
        return None


def use_amp(cfg: Config) -> None:
    """Turn on mixed precision: `AmpOptimWrapper`, as the mm tools do.

    Raises:
        UserError: the config's optimizer wrapper is of another kind than OptimWrapper or AmpOptimWrapper.
    """
    kind = cfg.optim_wrapper.get("type", "OptimWrapper")
    if kind == "OptimWrapper":
        cfg.optim_wrapper.update(type="AmpOptimWrapper", loss_scale="dynamic")
    elif kind not in ("AmpOptimWrapper", "BFloat16OptimWrapper"):
        raise UserError(f"--amp works with optim_wrapper.type OptimWrapper, but the config has {kind}")


def build_runner(cfg: Config) -> Runner:
    """The runner of `cfg`; on CPU with wrappers that work there."""
    if get_device() == "cpu":
        _fit_to_cpu(cfg)
    return RUNNERS.build(cfg) if "runner_type" in cfg else Runner.from_cfg(cfg)


def _fit_to_cpu(cfg: Config) -> None:
    optim_wrapper = cfg.get("optim_wrapper") or {}
    if optim_wrapper.get("type") == "AmpOptimWrapper":
        for key in ("loss_scale", "dtype", "use_fsdp"):
            optim_wrapper.pop(key, None)
        optim_wrapper.type = "BFloat16OptimWrapper"
    if cfg.launcher != "none":
        wrapper = cfg.get("model_wrapper_cfg") or {}
        kind = wrapper.get("type", "MMDistributedDataParallel")
        if kind not in ("MMDistributedDataParallel", "AnyDeviceDistributedDataParallel"):
            raise UserError(f"a distributed run without CUDA works with MMDistributedDataParallel only, not {kind}")
        defaults = {"broadcast_buffers": False, "find_unused_parameters": cfg.get("find_unused_parameters", False)}
        cfg.model_wrapper_cfg = {**defaults, **wrapper, "type": "AnyDeviceDistributedDataParallel"}


@MODEL_WRAPPERS.register_module()
class AnyDeviceDistributedDataParallel(MMDistributedDataParallel):
    """`MMDistributedDataParallel` that also wraps a model on CPU.

    There it takes no `device_ids`, and SyncBN, which raises on CPU, becomes BN. It does this on the built model, not
    in the config, as SyncBN may also come from a default of a class or from `cfg.sync_bn`.
    """

    def __init__(self, module: torch.nn.Module, device_ids: list[int] | None = None, **kwargs) -> None:
        if get_device() == "cpu":
            device_ids = None
            # mmcv's SyncBN is no subclass of PyTorch's, and exists only where mmcv is built with its operators.
            found = sum("SyncBatchNorm" in type(each).__name__ for each in module.modules())
            if found:
                print_log(f"SyncBN does not work without CUDA: {found} layers are reverted to BN.", logger="current")
                module = revert_sync_batchnorm(module)
        super().__init__(module=module, device_ids=device_ids, **kwargs)


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Mixed precision in bfloat16, whose range needs no loss scaling: works on CPU, unlike `AmpOptimWrapper`."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        print_log("Mixed precision in bfloat16, without loss scaling.", logger="current")

    @contextmanager
    def optim_context(self, model: torch.nn.Module) -> Iterator[None]:
        with super().optim_context(model), autocast(dtype=torch.bfloat16):
            yield
