"""What `tools/train.py` and `tools/test.py` share: flags, config, checks before the start, devices."""

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
        help='override settings of the config: a.b=1, or for lists a="[1,2]" and a.0.b=1',
    )
    parser.add_argument("--launcher", choices=["none", *RANK_VARIABLES], default="none", help="who started this job")
    # torch.distributed.launch passes it; the rank is read from the environment, where it is as well.
    parser.add_argument("--local_rank", "--local-rank", help=argparse.SUPPRESS)
    return parser


@contextmanager
def session(launcher: str) -> Iterator[None]:
    """Surroundings of a tool: checkpoints without code, and one line for what the user can put right.

    Exits with status 1 after a `UserError`, told on stderr by the first process of each machine.
    """
    try:
        with weights_only():
            yield
    except UserError as error:
        if launcher == "none" or os.environ.get(RANK_VARIABLES[launcher][2], "0") == "0":
            print("error:", " ".join(str(error).split()), file=sys.stderr)
        raise SystemExit(1) from None
    if dist.is_initialized():  # not after an error, when it could wait for the others forever
        # The model refers to the group, whose threads must end before the interpreter does, or they abort it.
        gc.collect()
        dist.destroy_process_group()


def load_config(args: argparse.Namespace, needs: tuple[str, ...]) -> Config:
    """The config of `args`, with `--cfg-options`, `--launcher` and `--work-dir` merged in.

    Raises:
        UserError: the file or one of its bases is missing or of an unknown kind, `default_scope` is neither mmdet
            nor mmseg, or a top level key in `needs` is missing.
    """
    try:
        cfg = Config.fromfile(args.config)
    except (OSError, ImportError) as error:
        cause = error
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
    absent = [key for key in ("meta", "message_hub") if key not in checkpoint]
    if to_resume and absent:
        raise UserError(
            f"cannot resume from {path}: it has no {', '.join(absent)}. "
            f"To start from its weights: --cfg-options load_from={path}"
        )


def check_pretrained(model: dict | list, place: str = "model") -> None:
    """Check the local files that parts of a model are initialised from, before anything is built.

    Raises:
        CheckpointError: see `load_checkpoint`, with the setting that names the file.
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
    """Raise UserError if an annotation file or an image directory of these data loaders is missing.

    A dataset class with the attribute `makes_own_data = True` makes its files itself and is not checked, nor is one
    that reads from elsewhere than the local disk.
    """
    for loader in loaders:
        for place, dataset in _innermost(f"{loader}.dataset", cfg[loader].dataset):
            kind = _dataset_class(dataset, cfg.default_scope)
            backend = (dataset.get("backend_args") or {}).get("backend", "local")
            if kind is None or getattr(kind, "makes_own_data", False) or backend != "local":
                continue
            for key, path in _data_paths(dataset):
                if "://" not in path and not Path(path).exists():
                    raise UserError(
                        f"the data set is not there: {place}.{key} is {path}. "
                        f"Put it there, or say where it is: --cfg-options {place}.data_root=DIRECTORY"
                    )


def _innermost(place: str, dataset: ConfigDict) -> Iterator[tuple[str, ConfigDict]]:
    """The datasets inside of wrappers such as RepeatDataset and ConcatDataset, and where in the config they are."""
    if "dataset" in dataset:
        yield from _innermost(f"{place}.dataset", dataset.dataset)
    elif "datasets" in dataset:
        for index, each in enumerate(dataset.datasets):
            yield from _innermost(f"{place}.datasets.{index}", each)
    else:
        yield place, dataset


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
    kind = dataset.get("type")
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
    """The runner of `cfg`; on CPU with a process group and wrappers that work there.

    Raises:
        UserError: the environment lacks what the launcher should have put there.
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
