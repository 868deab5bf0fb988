"""Build every config that mmdet and mmseg ship, unchanged and with ACON everywhere, and say what happened.

Writes OUT/coverage.json and OUT/coverage.md; results of models that were finished stay when it is started again.
"""

import argparse
from pathlib import Path

from acon_mm.analysis.config_coverage import run, table
from acon_mm.analysis.config_coverage.build_time import build_times


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path("work_dirs/coverage"), metavar="DIR", help="default: %(default)s"
    )
    parser.add_argument("--only", nargs="+", default=[""], metavar="PREFIX", help="as mmdet, mmseg/pspnet or a config")
    parser.add_argument("--sample", type=int, metavar="N", help="N configs, spread evenly over the families")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--act", default="AconC", help="type of the activation (default: %(default)s)")
    parser.add_argument("--retry", action="store_true", help="check again what failed before")
    parser.add_argument(
        "--build-time",
        metavar="CONFIG",
        help="only measure what --act adds to the time that this config takes to build",
    )
    args = parser.parse_args()
    if args.build_time:
        print(build_times(args.build_time, dict(type=args.act)))
        return 0
    report = run.coverage(args.out, args.only, args.sample, args.workers, dict(type=args.act), args.retry)
    print(table.summary(report))
    return 1 if table.failures(report) else 0


if __name__ == "__main__":
    raise SystemExit(main())
