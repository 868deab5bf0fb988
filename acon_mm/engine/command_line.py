"""The common code of `tools/train.py` and `tools/test.py`: flags, config, checks before the start, devices."""

import argparse
import gc
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.device import get_device
from mmengine.registry import DATASETS, RUNNERS
from mmengine.runner import Runner

from ..checkpoints import CheckpointError, load_checkpoint, weights_only
from ..errors import UserError
from . import devices
from .devices import RANK_VARIABLES

PACKAGES = {"mmdet": "mmdet", "mmseg": "mmsegmentation"}


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
        help='change settings of the config: a.b=1, or for lists a="[1,2]" and a.0.b=1',
    )
    parser.add_argument(
        "--launcher", choices=["none", *RANK_VARIABLES], default="none", help="the program that started this job"
    )
    # torch.distributed.launch passes it. We read the rank from the environment.
    parser.add_argument("--local_rank", "--local-rank", help=argparse.SUPPRESS)
    return parser


@contextmanager
def session(launcher: str) -> Iterator[None]:
    """The context that a tool runs in. No checkpoint can run code in it.

    After a `UserError`, the first process of each machine prints the error on stderr in one line, and all processes
    exit with status 1.
    """
    try:
        with weights_only():
            yield
    except UserError as error:
        if launcher == "none" or os.environ.get(RANK_VARIABLES[launcher][2], "0") == "0":
            print("error:", " ".join(str(error).split()), file=sys.stderr)
        raise SystemExit(1) from None
    if dist.is_initialized():  # not after an error: it could wait for the other processes forever
        # The model refers to the group. Its threads must end before the interpreter does, or they abort the process.
        gc.collect()
        dist.destroy_process_group()


def load_config(args: argparse.Namespace, needs: tuple[str, ...]) -> Config:
    """Read the config and merge `--cfg-options`, `--launcher` and `--work-dir` into it.

    Raises:
        UserError: the file or one of its bases is missing or is not a config, `default_scope` is neither mmdet nor
            mmseg, or one of the settings `needs` is missing.
    """
    try:
        cfg = Config.fromfile(args.config)
    except (OSError, ImportError) as error:
        cause: BaseException = error
        while cause.__context__ is not None:  # MMEngine wraps a failed import of custom_imports twice
            cause = cause.__context__
        reason = cause if Path(args.config).exists() else "no such file"
        raise UserError(f"cannot read config {args.config}: {reason}") from error
    if args.cfg_options is not None:
        try:
            cfg.merge_from_dict(args.cfg_options)
        except (KeyError, TypeError) as error:
            raise UserError(f"--cfg-options does not fit {args.config}: {error.args[0]}") from error
    scope = cfg.get("default_scope")
    if scope not in PACKAGES:
        raise UserError(f"{args.config} must have default_scope mmdet (detection) or mmseg (segmentation), not {scope}")
    if importlib.util.find_spec(scope) is None:
        raise UserError(f"{args.config} needs {scope}, which is not installed: pip install {PACKAGES[scope]}")
    absent = [key for key in needs if cfg.get(key) is None]
    if absent:
        raise UserError(f"{args.config} has no {', '.join(absent)}: add it, or inherit it with _base_")
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get("work_dir") or str(Path("work_dirs", Path(args.config).stem))
    return cfg


def check_checkpoint(path: str, to_resume: bool = False) -> None:
    """Check a local checkpoint before the data is loaded. URLs and names of model zoos are not checked.

    Raises:
        CheckpointError: see `load_checkpoint`.
        UserError: `to_resume` is true, and the checkpoint has no training state.
    """
    if "://" in path:
        return
    checkpoint = load_checkpoint(Path(path).expanduser())
    absent = [key for key in ("meta", "message_hub") if key not in checkpoint]
    if to_resume and absent:
        raise UserError(
            f"cannot resume from {path}: it has no {', '.join(absent)}. "
            f"To start a new training with its weights: --cfg-options load_from={path}"
        )


def check_pretrained(model: dict | list, place: str = "model") -> None:
    """Check the local checkpoints that initialise parts of a model, before the model is built.

    Raises:
        CheckpointError: see `load_checkpoint`. The error also names the setting with the checkpoint.
    """
    if isinstance(model, dict) and model.get("type") == "Pretrained" and isinstance(model.get("checkpoint"), str):
        try:
            check_checkpoint(model["checkpoint"])
        except CheckpointError as error:
            raise CheckpointError(f"{place}.checkpoint: {error}") from error
    for key, value in model.items() if isinstance(model, dict) else enumerate(model):
        if isinstance(value, (dict, list)):
            check_pretrained(value, f"{place}.{key}")


def check_data(cfg: Config, *loaders: str) -> None:
    """Check that the annotation files and image directories of these data loaders exist.

    A dataset class with the attribute `makes_own_data = True` makes its files itself and is not checked. Data that is
    not on the local disk is not checked either.

    Raises:
        UserError: a file or directory is missing.
    """
    for loader in loaders:
        for place, dataset in _innermost(f"{loader}.dataset", cfg[loader].dataset):
            dataset_class = _dataset_class(dataset, cfg.default_scope)
            backend = (dataset.get("backend_args") or {}).get("backend", "local")
            if dataset_class is None or getattr(dataset_class, "makes_own_data", False) or backend != "local":
                continue
            for key, path in _data_paths(dataset):
                if "://" not in path and not Path(path).exists():
                    raise UserError(
                        f"the data set is missing: {place}.{key} is {path}, which does not exist. "
                        f"Put the data there, or set its place: --cfg-options {place}.data_root=DIRECTORY"
                    )


def _innermost(place: str, dataset: ConfigDict) -> Iterator[tuple[str, ConfigDict]]:
    """The datasets inside wrappers such as RepeatDataset and ConcatDataset, each with its place in the config."""
    if "dataset" in dataset:
        yield from _innermost(f"{place}.dataset", dataset.dataset)
    elif "datasets" in dataset:
        for index, each in enumerate(dataset.datasets):
            yield from _innermost(f"{place}.datasets.{index}", each)
    else:
        yield place, dataset


def _data_paths(dataset: ConfigDict) -> Iterator[tuple[str, str]]:
    """Setting and path of each file or directory that MMEngine's `BaseDataset` reads."""
    root = dataset.get("data_root") or ""
    prefixes = dataset.get("data_prefix") or {}
    if isinstance(prefixes, str):
        prefixes = {"img": prefixes}
    settings = {"ann_file": dataset.get("ann_file"), **{f"data_prefix.{key}": path for key, path in prefixes.items()}}
    for key, path in {"data_root": "", **settings}.items():
        if isinstance(path, str) and (path or root):
            yield key, os.path.join(root, path)


def _dataset_class(dataset: ConfigDict, scope: str) -> type | None:
    """The class, or None if the name is unknown. The error for this comes when the dataset is built."""
    name = dataset.get("type")
    if not isinstance(name, str):
        return name
    try:
        return DATASETS.get(name if "." in name else f"{scope}.{name}")
    except RuntimeError:
        return None


def use_amp(cfg: Config) -> None:
    """Set `AmpOptimWrapper` for mixed precision, as the tools of mmdet and mmseg do.

    Raises:
        UserError: the config has an optimizer wrapper other than OptimWrapper or AmpOptimWrapper.
    """
    wrapper = cfg.optim_wrapper.get("type", "OptimWrapper")
    if wrapper == "OptimWrapper":
        cfg.optim_wrapper.update(type="AmpOptimWrapper", loss_scale="dynamic")
    elif wrapper not in ("AmpOptimWrapper", "BFloat16OptimWrapper"):
        raise UserError(f"--amp needs optim_wrapper.type OptimWrapper, but the config has {wrapper}: leave out --amp")


def build_runner(cfg: Config) -> Runner:
    """Build the runner. On CPU it gets a process group and wrappers that work there.

    Raises:
        UserError: an environment variable that the launcher sets is missing.
    """
    if cfg.launcher != "none":
        names = [*RANK_VARIABLES[cfg.launcher], *([] if cfg.launcher == "slurm" else ["MASTER_ADDR"])]
        if missing := [name for name in names if name not in os.environ]:
            raise UserError(
                f"--launcher {cfg.launcher} needs {', '.join(missing)} in the environment: start the job with "
                "tools/dist_train.sh, tools/dist_test.sh or tools/slurm_train.sh"
            )
    if get_device() == "cpu":
        devices.fit_config(cfg)
        if cfg.launcher != "none":
            devices.open_process_group(cfg.launcher)
    return RUNNERS.build(cfg) if "runner_type" in cfg else Runner.from_cfg(cfg)
