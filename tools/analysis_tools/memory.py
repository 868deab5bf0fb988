"""Show what a training step keeps in memory, by layer and kind: with the ACONs of a config, and with ReLU.

Writes `memory.md`, `memory.json`, `memory.png` and `memory.svg`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

import acon_mm  # noqa: F401  registers activations
from acon_mm.analysis.explanation.picture_shape import picture_shape
from acon_mm.analysis.machine import usable_device
from acon_mm.analysis.memory import figure, measure, report
from acon_mm.analysis.page import rendered
from acon_mm.engine import command_line, devices
from acon_mm.files import write_file


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="config file of a detector or a segmentor")
    parser.add_argument(
        "--shape",
        nargs=2,
        type=int,
        metavar=("HEIGHT", "WIDTH"),
        help="size of the pictures (default: as in the config)",
    )
    parser.add_argument(
        "--batch-size", type=int, help="pictures in a step (default: as in the config's train_dataloader)"
    )
    parser.add_argument(
        "--memory-gib", type=float, default=24.0, help="tell how many pictures fit into this (default: %(default)s)"
    )
    parser.add_argument("--top", type=int, default=20, help="how many layers to list (default: %(default)s)")
    parser.add_argument("--amp", action="store_true", help="mixed precision")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--work-dir", help="directory for the files (default: work_dirs/CONFIG_NAME)")
    command_line.add_cfg_options(parser)
    command_line.add_debug(parser)
    parser.set_defaults(launcher="none")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    with command_line.session(args.launcher, args.debug):
        for flag, values in (
            ("--shape", args.shape or [1]),
            ("--batch-size", [1 if args.batch_size is None else args.batch_size]),
            ("--memory-gib", [args.memory_gib]),
            ("--top", [args.top]),
        ):
            if not min(values) > 0:
                raise command_line.UserError(f"{flag} must be positive, got {', '.join(map(str, values))}")
        device = usable_device(args.device)
        if device.type not in ("cpu", "cuda"):
            raise command_line.UserError(f"--device must be cpu or cuda, got {args.device}")
        cfg = command_line.load_config(args, needs=("model", "optim_wrapper"))
        if args.amp:
            command_line.use_amp(cfg)
        if device.type == "cpu":
            devices.fit_config(cfg)
        shape = tuple(args.shape) if args.shape else picture_shape(cfg)
        batch = args.batch_size or (cfg.get("train_dataloader") or {}).get("batch_size", 2)
        found = measure(cfg, shape, batch, device)
        conditions = {"config": args.config, "shape": shape, "device": str(device)}
        text = report.markdown(found, conditions, args.memory_gib, args.top)
        directory = Path(cfg.work_dir)
        for name, content in (
            ("memory.md", text),
            ("memory.json", report.as_json(found, conditions, args.memory_gib)),
        ):
            write_file(directory / name, content)
        title = f"Memory of a training step, {Path(args.config).stem}: {batch} pictures of {shape[0]} x {shape[1]}"
        rendered(figure.figure(found, title, args.memory_gib), "memory").save(directory)
    print(text)
    print(f"The picture is {directory / 'memory.png'}")


if __name__ == "__main__":
    main()
