"""Train a detector (mmdet config) or a segmentor (mmseg config)."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

import acon_mm  # noqa: F401  registers activations and datasets
from acon_mm.engine import command_line
from acon_mm.engine.resuming import ResumeCheckHook


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = command_line.argument_parser(__doc__, "configs/detection/retinanet_r18-aconc_fpn_6e_digits.py --amp")
    command_line.add_launch(parser)
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="resume from CHECKPOINT; without a value: from the latest one in the work directory that is whole, if any",
    )
    parser.add_argument("--amp", action="store_true", help="train in mixed precision (bfloat16 on CPU)")
    parser.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="scale the learning rate by the ratio of the batch size to auto_scale_lr.base_batch_size in the config",
    )
    return parser.parse_args(argv)


def set_start(cfg: Config, resume: str | None) -> None:
    """Merge `--resume` into the config. If training starts from a checkpoint, check it."""
    start = cfg.get("load_from")
    if resume is not None:
        cfg.resume = True
        cfg.load_from = None if resume == "auto" else resume
    if cfg.get("resume") and cfg.get("load_from") is None:
        cfg.load_from = latest_checkpoint(cfg)
        if cfg.load_from is not None or start is None:
            return
        cfg.resume, cfg.load_from = False, start  # nothing to resume yet: it starts as the config says
    if cfg.get("load_from") is not None:
        command_line.check_checkpoint(cfg.load_from, to_resume=cfg.get("resume", False))


def latest_checkpoint(cfg: Config) -> str | None:
    """The newest checkpoint of the work directory that can be resumed from. Those that cannot are told and skipped.

    The first choice is the one that `last_checkpoint` names, also if the work directory was moved since.
    """
    pointer = Path(cfg.work_dir, "last_checkpoint")
    named = pointer.read_text(errors="replace").strip() if pointer.is_file() else ""
    chosen = [path for path in (Path(named), Path(cfg.work_dir, Path(named).name)) if named and path.is_file()]
    others = sorted(Path(cfg.work_dir).glob("*.pth"), key=_age, reverse=True)
    reasons = [] if chosen else [f"{pointer} is missing, damaged or names no file"]
    for path in dict.fromkeys([*chosen, *others]):
        try:
            command_line.check_checkpoint(str(path), to_resume=True)
        except command_line.UserError as error:
            reasons.append(str(error))
            continue
        for reason in reasons:
            command_line.warn(cfg.launcher, f"resuming from {path}, because {reason}")
        return str(path)
    if named:
        raise command_line.UserError(f"cannot resume: {'; '.join(reasons)}")
    for reason in reasons if others else ():  # the first checkpoint has never been written, or only in part
        command_line.warn(cfg.launcher, f"starting from the beginning, because {reason}")
    return None


def _age(path: Path) -> tuple[int, float]:
    """The number in the name of a checkpoint, then the time of its file: a copied directory has lost the times."""
    return int((re.findall(r"\d+", path.stem) or ["-1"])[-1]), path.lstat().st_mtime


def scale_lr(cfg: Config) -> None:
    if "base_batch_size" not in (cfg.get("auto_scale_lr") or {}):
        raise command_line.UserError(
            "--auto-scale-lr needs the batch size for which the learning rate was chosen: "
            "set it in the config, such as auto_scale_lr = dict(base_batch_size=16)"
        )
    cfg.auto_scale_lr.enable = True


def train(cfg: Config) -> None:
    # In a function of its own: a runner with a name in main would keep the process group's threads beyond the session.
    runner = command_line.build_runner(cfg)
    warn_of_single_checkpoint(runner)
    if cfg.get("resume"):
        runner.register_hook(ResumeCheckHook())
    runner.train()


def warn_of_single_checkpoint(runner: Runner) -> None:
    if any(isinstance(hook, CheckpointHook) and hook.max_keep_ckpts == 1 for hook in runner.hooks):
        runner.logger.warning(
            "max_keep_ckpts=1: the only checkpoint is removed before the next is written, and a kill in between "
            "leaves none. Keep two: --cfg-options default_hooks.checkpoint.max_keep_ckpts=2"
        )


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    with command_line.session(args.launcher, args.debug):
        cfg = command_line.load_config(args, needs=("model", "train_cfg", "train_dataloader", "optim_wrapper"))
        set_start(cfg, args.resume)
        command_line.check_pretrained(cfg.model)
        if args.amp:
            command_line.use_amp(cfg)
        if args.auto_scale_lr:
            scale_lr(cfg)
        with command_line.locked(cfg):
            train(cfg)


if __name__ == "__main__":
    main()
