"""Explain what a config becomes, before training: its ACONs with their cost, and what was kept and why."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import acon_mm  # noqa: F401  registers activations
from acon_mm.analysis.explanation import explain, report
from acon_mm.engine import command_line
from acon_mm.files import write_file


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = command_line.argument_parser(__doc__, "CONFIG.py --shape 512 512")
    command_line.add_shape(parser)
    parser.add_argument("--out", metavar="FILE", help="also write the result to a .json or .md file")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    with command_line.session(args.launcher, args.debug):
        if args.out and Path(args.out).suffix not in (".json", ".md"):
            raise command_line.UserError(f"--out must end in .json or .md, got {args.out}")
        cfg = command_line.load_config(args, needs=("model",))
        explanation = explain(cfg, tuple(args.shape) if args.shape else None)
        text = report.markdown(explanation, args.config)
        print(text)
        if args.out:
            write_file(args.out, text if Path(args.out).suffix == ".md" else report.as_json(explanation, args.config))


if __name__ == "__main__":
    main()
