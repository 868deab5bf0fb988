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
    parser = command_line.argument_parser(__doc__, "CONFIG.py --memory-gib 24")
    command_line.add_shape(parser)
    parser.add_argument(
        "--batch-size",
        type=command_line.positive_int,
        help="pictures in a step (default: as in the config's train_dataloader)",
    )
    parser.add_argument(
        "--memory-gib",
        type=command_line.amount,
        default=24.0,
        help="tell how many pictures fit into this (default: %(default)s)",
    )
    parser.add_argument(
        "--top", type=command_line.positive_int, default=20, help="how many layers to list (default: %(default)s)"
    )
    parser.add_argument("--amp", action="store_true", help="mixed precision")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--work-dir", help="directory for the files (default: work_dirs/CONFIG_NAME)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    with command_line.session(args.launcher, args.debug):
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
