"""Show what the activations of a checkpoint have learned: every channel's curve, and the spread of p1, p2 and beta.

For Meta-ACON it shows the betas of pictures and classes as well. The figures are PNG and SVG files in the output
directory, and `activations.html` has all of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import acon_mm  # noqa: F401  registers activations and datasets
from acon_mm.analysis import activations
from acon_mm.engine import command_line
from acon_mm.learned import layers_of


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = command_line.argument_parser(__doc__, "CONFIG.py work_dirs/CONFIG/epoch_6.pth --out activations")
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument(
        "--pictures",
        metavar="DIR",
        help="pictures for Meta-ACON; subdirectories are classes (default: the test set, with its classes)",
    )
    parser.add_argument("--count", type=command_line.positive_int, default=64, help="how many pictures (default: 64)")
    parser.add_argument("--out", metavar="DIR", help="default: activations/ beside the checkpoint")
    args = parser.parse_args(argv)
    args.out = args.out or str(Path(args.checkpoint).parent / "activations")
    args.work_dir = args.out
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    with command_line.session(args.launcher, args.debug):
        if args.pictures and not Path(args.pictures).is_dir():
            raise command_line.UserError(f"--pictures must be a directory, and {args.pictures} is none")
        cfg = command_line.load_config(args, needs=("model", "test_cfg", "test_dataloader", "test_evaluator"))
        command_line.check_checkpoint(args.checkpoint)
        runner = command_line.build_runner(cfg)
        before = layers_of(runner.model)
        if not before:
            raise command_line.UserError(
                f"the model of {args.config} has no ACON with a curve per channel: explain.py shows what it has"
            )
        runner.load_checkpoint(args.checkpoint)
        seen = None
        if activations.needs_pictures(runner.model):
            seen = activations.see(runner, args.pictures, args.count)
        layers = layers_of(runner.model, seen.means() if seen else None)
        activations.write(activations.drawn(layers, before, seen), f"Activations of {args.checkpoint}", Path(args.out))
    print(activations.text(layers))
    print(f"The figures are in {Path(args.out, 'activations.html')}")


if __name__ == "__main__":
    main()
