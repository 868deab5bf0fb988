"""Check act_cfg on every config that mmdet and mmseg ship: build, load, run and differentiate each model with ACON.

Writes coverage.json and coverage.md to the work directory. If it is interrupted and started again, it continues.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from acon_mm.analysis.config_coverage import table
from acon_mm.analysis.config_coverage.build_time import build_times
from acon_mm.analysis.config_coverage.check_all import check_all
from acon_mm.analysis.machine import refuse_windows
from acon_mm.engine import command_line


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = command_line.argument_parser(__doc__, "--only mmdet/retinanet --workers 2", config=False)
    parser.add_argument(
        "--work-dir",
        type=Path,
        default=Path("work_dirs/config_coverage"),
        metavar="DIR",
        help="directory for results (default: %(default)s)",
    )
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="PREFIX", help="for example mmdet, mmseg/pspnet or one config"
    )
    parser.add_argument(
        "--sample", type=command_line.positive_int, metavar="N", help="check N configs, spread evenly over the families"
    )
    parser.add_argument(
        "--workers", type=command_line.positive_int, default=2, help="number of processes (default: %(default)s)"
    )
    parser.add_argument("--act", default="AconC", help="type of the activation (default: %(default)s)")
    parser.add_argument("--retry", action="store_true", help="check again the models that failed before")
    parser.add_argument(
        "--build-time", metavar="CONFIG", help="only measure how much --act adds to the build time of this config"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the check; the status is 1 if a model has a problem."""
    args = parse_args(argv)
    act_cfg = dict(type=args.act)
    with command_line.session(args.launcher, args.debug):
        if args.build_time:
            print(build_times(args.build_time, act_cfg))
            return 0
        refuse_windows("config_coverage.py")
        report = check_all(
            args.work_dir,
            prefixes=args.only,
            sample=args.sample,
            workers=args.workers,
            act_cfg=act_cfg,
            retry=args.retry,
        )
    print(table.summary(report))
    return 1 if table.failures(report) else 0


if __name__ == "__main__":
    raise SystemExit(main())
