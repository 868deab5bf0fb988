"""The common code of `tools/train.py` and `tools/test.py`: flags, config, checks before the start, devices."""

from __future__ import annotations

import argparse
import gc
import importlib.util
import math
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch.distributed as dist
from filelock import FileLock, Timeout
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.device import get_device
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch import Tensor
from torch.utils.data import DataLoader

from ..checkpoints import CheckpointError, load_checkpoint, weights_only
from ..checkpoints.reading import not_finite
from ..errors import DataError, UserError
from . import devices
from .data_checks import name_files
from .devices import RANK_VARIABLES
from .messages import batch_of, one_line, settings

#: to wait for the lock of a work directory: the workers of a process that was killed hold it for some seconds more
LOCK_SECONDS = 10.0
PACKAGES = {"mmdet": "mmdet", "mmseg": "mmsegmentation"}


class Options(DictAction):
    """mmengine's action for ``--cfg-options``. What it cannot read is an error of the command line."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: Any = None) -> None:
        for value in values:
            if not re.match(".+=", value):
                parser.error(f"{option}: {value!r} is not KEY=VALUE")
            try:
                super().__call__(parser, namespace, [value], option)
            except Exception as error:  # brackets that do not fit, for example
                parser.error(f"{option}: cannot read {value!r}: {error}")


class Parser(argparse.ArgumentParser):
    """argparse's parser, whose errors are one line, as all errors of the tools."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def argument_parser(description: str | None, example: str, config: bool = True) -> Parser:
    """A parser with the arguments of all tools. With ``config`` these are a config and changes of it, too."""
    parser = Parser(
        description=description,
        epilog=f"example: %(prog)s {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(launcher="none", work_dir=None)
    parser.add_argument("--debug", action="store_true", help="show the traceback of every error")
    if config:
        parser.add_argument("config", help="config file of a detector (mmdet) or a segmentor (mmseg)")
        add_cfg_options(parser)
    return parser


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=Options,
        metavar="KEY=VALUE",
        help='change settings of the config: a.b=1, or for lists a="[1,2]" and a.0.b=1',
    )


def add_launch(parser: argparse.ArgumentParser) -> None:
    """The arguments of a run, which may have several processes."""
    parser.add_argument("--work-dir", help="directory for logs and checkpoints (default: work_dirs/CONFIG_NAME)")
    parser.add_argument(
        "--launcher", choices=["none", *RANK_VARIABLES], default="none", help="the program that started this job"
    )
    # torch.distributed.launch passes it. We read the rank from the environment.
    parser.add_argument("--local_rank", "--local-rank", help=argparse.SUPPRESS)


def add_shape(parser: argparse.ArgumentParser, default: Sequence[int] | None = None) -> None:
    parser.add_argument(
        "--shape",
        nargs=2,
        type=positive_int,
        default=default,
        metavar=("HEIGHT", "WIDTH"),
        help=f"size of the pictures (default: {' '.join(map(str, default)) if default else 'as in the config'})",
    )


def amount(text: str) -> float:
    if not 0 <= (number := float(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"must be 0 or more, got {text}")
    return number


def positive_int(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {text}")
    return number


@contextmanager
def session(launcher: str, debug: bool = False) -> Iterator[None]:
    """The context that a tool runs in. No checkpoint can run code in it.

    After an error, the first process of each machine prints it on stderr in one line, with the place in the config if
    it comes from there, and all processes exit with status 1. An error of a batch is printed by the process that has
    it. With ``debug`` every error keeps its traceback.
    """
    try:
        _check_launcher(launcher)  # mmengine's loggers read the variables too
        with weights_only():
            yield
    except Exception as error:
        if debug:
            raise
        if is_first(launcher) or isinstance(error, DataError) or batch_of(error):
            print("error:", one_line(error), file=sys.stderr)
        raise SystemExit(1) from None
    if dist.is_initialized():  # not after an error: it could wait for the other processes forever
        # The model refers to the group. Its threads must end before the interpreter does, or they abort the process.
        gc.collect()
        dist.destroy_process_group()


def _check_launcher(launcher: str) -> None:
    """Raise a UserError if an environment variable that the launcher sets is missing or wrong."""
    if launcher == "none":
        return
    slurm = launcher == "slurm" and "MASTER_ADDR" not in os.environ
    names = [*RANK_VARIABLES[launcher], "SLURM_JOB_NODELIST" if slurm else "MASTER_ADDR"]
    if missing := [name for name in names if name not in os.environ]:
        raise UserError(
            f"--launcher {launcher} needs {', '.join(missing)} in the environment: start the job with "
            "tools/dist_train.sh, tools/dist_test.sh or tools/slurm_train.sh"
        )
    rank, size, local = (os.environ[name] for name in names[:3])
    if not (rank.isdigit() and size.isdigit() and local.isdigit() and int(rank) < int(size)):
        raise UserError(
            f"the rank of a process must be below the number of processes, but the launcher has set {names[0]}="
            f"{rank}, {names[1]}={size} and {names[2]}={local}"
        )


def is_first(launcher: str) -> bool:
    """Whether this is the first process of its machine."""
    return launcher == "none" or not re.fullmatch("0*[1-9][0-9]*", os.environ.get(RANK_VARIABLES[launcher][2], ""))


def warn(launcher: str, text: str) -> None:
    if is_first(launcher):
        print("warning:", text, file=sys.stderr)


@contextmanager
def locked(cfg: Config) -> Iterator[None]:
    """A context in which no other training uses the work directory.

    Raises:
        UserError: another one uses it.
    """
    if cfg.launcher != "none" and os.environ.get(RANK_VARIABLES[cfg.launcher][0], "0") != "0":
        yield  # the first of all processes has the lock
        return
    path = Path(cfg.work_dir, ".lock")
    lock = FileLock(path, timeout=LOCK_SECONDS)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()  # where no file can be made, FileLock waits all the same
        lock.acquire()
    except Timeout:
        raise UserError(
            f"another training uses {cfg.work_dir}, and would overwrite its checkpoints: wait for its end, or choose "
            "another --work-dir"
        ) from None
    except NotImplementedError:  # the file system has no locks
        warn(cfg.launcher, f"{path} cannot be locked: start no second training in this directory")
    try:
        yield
    finally:
        lock.release()


def load_config(args: argparse.Namespace, needs: tuple[str, ...]) -> Config:
    """Read the config and merge `--cfg-options`, `--launcher` and `--work-dir` into it.

    Raises:
        UserError: the file or one of its bases is missing or is not a config, `default_scope` is neither mmdet nor
            mmseg, or one of the settings `needs` is missing.
    """
    try:
        _check_bases(args.config)
        cfg = Config.fromfile(args.config)
    except UserError:
        raise
    except Exception as error:  # a config is a program, which can raise anything
        cause: BaseException = error
        while isinstance(error, ImportError) and cause.__context__:  # MMEngine wraps one of custom_imports twice
            cause = cause.__context__
        kind = "" if isinstance(error, (OSError, ImportError, SyntaxError)) else f"{type(error).__name__}: "
        reason = f"{kind}{cause}" if Path(args.config).exists() else "no such file"
        raise UserError(f"cannot read config {args.config}: {reason}") from error
    for place, part in settings(cfg) if not Config._is_lazy_import(args.config) else ():
        for key, value in part.items():
            if any(map(callable, value if isinstance(value, (list, tuple)) else [value])):
                raise UserError(
                    f"{'.'.join([*place, key])} in {args.config} is a class or function, which cannot be saved with "
                    "the config: write its name, as in type='AconC', and import its module with custom_imports"
                )
    if args.cfg_options is not None:
        try:
            cfg.merge_from_dict(args.cfg_options)
        except Exception as error:  # mmengine checks nothing here
            raise UserError(f"--cfg-options does not fit {args.config}: {error.args[0]}") from error
    if cfg.get("default_scope") is None and (found := _package_of(cfg.get("model"))):
        cfg.default_scope = found
    scope = cfg.get("default_scope")
    if scope not in PACKAGES:
        raise UserError(f"{args.config} must have default_scope mmdet (detection) or mmseg (segmentation), not {scope}")
    if importlib.util.find_spec(scope) is None:
        raise UserError(f"{args.config} needs {scope}, which is not installed: pip install {PACKAGES[scope]}")
    absent = [key for key in needs if cfg.get(key) is None]
    if absent:
        raise UserError(f"{args.config} has no {', '.join(absent)}: add it, or inherit it with _base_")
    others = ("default_hooks", "custom_hooks", "env_cfg", "randomness", "custom_imports", "auto_scale_lr", "visualizer")
    parts = {key: cfg.get(key) or {} for key in (*needs, *others)}
    parts |= {
        f"{key}.dataset": parts[key].get("dataset") for key in needs if isinstance(parts[key], dict) and "loader" in key
    }
    for key, part in parts.items():
        if not isinstance(part, (dict, list)):
            raise UserError(f"{key} in {args.config} must be a dict, got {part!r}")
    _warn_of_unread(cfg, args.launcher)

    add_import(cfg, "acon_mm")
    cfg.launcher = args.launcher
    cfg.work_dir = str(args.work_dir or cfg.get("work_dir") or Path("work_dirs", Path(args.config).stem))
    return cfg


def _package_of(model: Any) -> str | None:
    """The package that the classes of a model come from, where a config has classes, or names such as mmdet.SSD."""
    for _, part in settings(model) if isinstance(model, dict) else ():  # outermost first
        kind = part.get("type")
        modules = [each.__module__ for each in kind.__mro__] if isinstance(kind, type) else [str(kind)]
        if package := next((name for module in modules if (name := module.partition(".")[0]) in PACKAGES), None):
            return package
    return None


def _check_bases(config: str, above: tuple[str, ...] = ()) -> None:
    """Raise a UserError if a config is its own base: mmengine would read it for long."""
    path = os.path.realpath(config)
    if path in above:
        raise UserError(f"cannot read config {above[0]}: its _base_ is circular: {' -> '.join([*above, path])}")
    for base in Config._get_base_files(path) if Path(path).suffix in (".py", ".json", ".yaml", ".yml") else ():
        if not isinstance(base, str):
            raise UserError(f"cannot read config {config}: _base_ must be a name or a list of names, got {base!r}")
        file = os.path.join(os.path.dirname(path), base)
        if os.path.exists(file):  # mmengine finds the others
            _check_bases(file, (*above, path))


def _warn_of_unread(cfg: Config, launcher: str) -> None:
    """Tell of an activation that nothing reads. A variable that the model has is none, and neither is one of a base."""
    for place, part in (("", cfg), ("model_wrapper_cfg.", cfg.get("model_wrapper_cfg") or {})):
        for key in ("act_cfg", "act_sites"):
            if part.get(key) is not None and (place or key == "act_sites" or repr(part[key]) not in repr(cfg.model)):
                warn(launcher, f"nothing reads {place}{key}: put it where the activations are: model.backbone.{key}")
    wrapper = cfg.get("optim_wrapper") or {}
    if (wrapper.get("paramwise_cfg") or {}).get("acon") is not None and wrapper.get("constructor") is None:
        way_out = "add optim_wrapper.constructor='AconOptimWrapperConstructor'"
        warn(launcher, f"nothing reads optim_wrapper.paramwise_cfg.acon: {way_out}")


def add_import(cfg: Config, module: str) -> None:
    """Add a module to `custom_imports`, because others read the config that a run saves, such as `init_detector`."""
    imports = cfg.get("custom_imports") or {"imports": []}
    names = imports["imports"]
    names = [names] if isinstance(names, str) else list(names)
    if not any(f"{name}.".startswith(f"{module}.") for name in names):
        cfg.custom_imports = {**imports, "imports": [*names, module]}


def check_checkpoint(path: str, to_resume: bool = False) -> None:
    """Check a local checkpoint before the data is loaded. URLs and names of model zoos are not checked.

    Raises:
        CheckpointError: see `load_checkpoint`.
        UserError: `to_resume` is true, and the checkpoint has no training state.
    """
    if not isinstance(path, str):
        raise CheckpointError(f"a checkpoint is the name of a file or a URL, got {path!r}")
    if path.startswith("file://"):
        raise UserError(f"{path} is not supported: give the path of the file without file://")
    if "://" in path:
        return
    checkpoint = load_checkpoint(Path(path).expanduser())
    state = {"optimizer": {}, **checkpoint}  # which may have been left out
    absent = [key for key in ("meta", "message_hub", "optimizer") if not isinstance(state.get(key), dict)]
    absent = absent or [f"meta.{key}" for key in ("epoch", "iter") if not isinstance(state["meta"].get(key), int)]
    if to_resume and absent:
        raise UserError(
            f"cannot resume from {path}: it has no {', '.join(absent)}. "
            f"To start a new training with its weights: --cfg-options load_from={path}"
        )
    weights = checkpoint.get("state_dict", checkpoint)
    if not any(isinstance(each, Tensor) for each in weights.values()):
        raise CheckpointError(f"{path} has no weights")
    if names := not_finite(weights):
        raise CheckpointError(f"the weights in {path} are not finite: {names}. Use a checkpoint from before")


def check_pretrained(model: dict) -> None:
    """Check the local checkpoints that initialise parts of a model, before the model is built.

    Raises:
        CheckpointError: see `load_checkpoint`. The error also names the setting with the checkpoint.
    """
    for place, part in settings(model):
        if part.get("type") == "Pretrained" and "checkpoint" in part:
            try:
                check_checkpoint(part["checkpoint"])
            except CheckpointError as error:
                raise CheckpointError(f"{'.'.join(['model', *place, 'checkpoint'])}: {error}") from error


def use_amp(cfg: Config) -> None:
    """Set `AmpOptimWrapper` for mixed precision, as the tools of mmdet and mmseg do.

    Raises:
        UserError: the config has an optimizer wrapper other than OptimWrapper or AmpOptimWrapper.
    """
    wrapper = cfg.optim_wrapper.get("type", "OptimWrapper")
    wrapper = getattr(wrapper, "__name__", wrapper)  # pure-Python configs have classes
    if wrapper == "OptimWrapper":
        cfg.optim_wrapper.update(type="AmpOptimWrapper", loss_scale="dynamic")
    elif wrapper not in ("AmpOptimWrapper", "BFloat16OptimWrapper"):
        raise UserError(f"--amp needs optim_wrapper.type OptimWrapper, but the config has {wrapper}: leave out --amp")


def build_runner(cfg: Config) -> Runner:
    """Build the runner. On CPU it gets a process group and wrappers that work there."""
    if get_device() == "cpu":
        devices.fit_config(cfg)
        if cfg.launcher != "none":
            devices.open_process_group(cfg.launcher)
    hooks = cfg.setdefault("default_hooks", ConfigDict())
    if not hooks.setdefault("check_invalid", {"type": "CheckInvalidHook"}):
        del hooks.check_invalid  # mmengine knows None for its own hooks only
    runner: Any = RUNNERS.build(cfg) if "runner_type" in cfg else Runner.from_cfg(cfg)
    build = runner.build_dataloader

    def build_dataloader(*args: Any, **kwargs: Any) -> DataLoader:
        loader = build(*args, **kwargs)
        name_files(loader.dataset)  # before its processes start: a loop may start them when it is built
        return loader

    runner.build_dataloader = build_dataloader
    return runner
