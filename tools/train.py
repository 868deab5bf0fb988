"""Train a detector (mmdet config) or a segmentor (mmseg config)."""

import argparse
from collections.abc import Sequence

from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner, find_latest_checkpoint

import acon_mm  # noqa: F401  registers activations and datasets
from acon_mm.engine import command_line


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = command_line.argument_parser(__doc__)
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="resume from CHECKPOINT, or without a value from the latest in the work directory, if there is one",
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
    if resume is not None:
        cfg.resume = True
        cfg.load_from = None if resume == "auto" else resume
    start = cfg.get("load_from")
    if start is None and cfg.get("resume"):
        start = find_latest_checkpoint(cfg.work_dir)
    if start is not None:
        command_line.check_checkpoint(start, to_resume=cfg.get("resume", False))


def scale_lr(cfg: Config) -> None:
    if "base_batch_size" not in (cfg.get("auto_scale_lr") or {}):
        raise command_line.UserError(
            "--auto-scale-lr needs the batch size for which the learning rate was chosen: "
            "set it in the config, such as auto_scale_lr = dict(base_batch_size=16)"
        )
    cfg.auto_scale_lr.enable = True


def warn_of_single_checkpoint(runner: Runner) -> Runner:
    if any(isinstance(hook, CheckpointHook) and hook.max_keep_ckpts == 1 for hook in runner.hooks):
        runner.logger.warning(
            "max_keep_ckpts=1: the only checkpoint is removed before the next is written, and a kill in between "
            "leaves none. Keep two: --cfg-options default_hooks.checkpoint.max_keep_ckpts=2"
        )
    return runner


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    with command_line.session(args.launcher):
        cfg = command_line.load_config(args, needs=("model", "train_cfg", "train_dataloader", "optim_wrapper"))
        set_start(cfg, args.resume)
        command_line.check_pretrained(cfg.model)
        command_line.check_data(cfg, "train_dataloader", *(["val_dataloader"] if cfg.get("val_cfg") else []))
        if args.amp:
            command_line.use_amp(cfg)
        if args.auto_scale_lr:
            scale_lr(cfg)
        # Without a name for the runner, which would keep the process group's threads beyond the session.
        warn_of_single_checkpoint(command_line.build_runner(cfg)).train()


if __name__ == "__main__":
    main()
