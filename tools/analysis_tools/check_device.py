"""Check whether ACON is right and fast on this machine: correctness, host time, bandwidth, training steps.

The exit code is 1 if a check of correctness fails or a measured call raises an error; it does not depend on speed. It
runs from a copy of the project with nothing installed but PyTorch. Without OpenMMLab's packages only the operators
(acon_mm/ops) are checked.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = ("correctness", "host", "bandwidth", "training")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: %(prog)s --quick --device cuda --out device.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="fewer and smaller cases: about 1 minute instead of 4")
    parser.add_argument("--sections", nargs="+", default=SECTIONS, choices=SECTIONS, help="default: all")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="PATTERN",
        help="checks, activations and cases whose name contains one of these, such as values or 'bfloat16*7x7'",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the results as JSON")
    parser.add_argument("--list", action="store_true", help="only print the names of the checks of correctness")
    return parser.parse_args(argv)


def import_acon() -> str:
    """Make ``acon_mm`` importable, all of it or only its operators; which packages of OpenMMLab are missing, or ''."""
    if (ROOT / "acon_mm").is_dir():
        sys.path.insert(0, str(ROOT))
    try:
        import acon_mm  # noqa: F401
    except ImportError as error:
        # Without its __init__.py, which imports OpenMMLab's packages, its subpackages can still be imported.
        spec = find_spec("acon_mm")
        if spec is None:
            raise
        sys.modules["acon_mm"] = module_from_spec(spec)
        return str(error)
    return ""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the chosen sections; the status is 1 if a check of correctness has failed, or a measurement with an error."""
    args = parse_args(argv)
    problem = import_acon()
    from acon_mm.analysis.device_check import bandwidth, checks, correctness, host, report
    from acon_mm.analysis.machine import usable_device
    from acon_mm.errors import UserError
    from acon_mm.files import write_json

    try:
        setting = checks.Setting(usable_device(args.device), args.quick, args.only)
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    every = correctness.all_checks(setting, with_modules=not problem)
    if args.list:
        print("\n".join(check.name for check in every if checks.chosen(check.name, args.only)))
        return 0
    if setting.on_gpu and setting.device.index is not None:
        torch.cuda.set_device(setting.device)
    machine = report.machine(setting.device, f"only the operators are checked: {problem}" if problem else "there")
    results: dict[str, object] = {"machine": machine}
    print("\n".join(f"{name}: {value}" for name, value in machine.items()), flush=True)

    def collect(section: str, found: Iterable, rows: list) -> None:
        """Take the rows of a section, and write them after each one: a run that is stopped leaves what it has."""
        for row in found:
            rows.append(row)
            results[section] = [asdict(each) for each in rows]
            if args.out:
                try:
                    write_json(args.out, results)
                except UserError as error:
                    raise SystemExit(f"error: {error}") from None
            if section == "correctness":
                print(f"{row.status:8s}{row.seconds:6.1f} s  {row.name}: {row.detail}", flush=True)

    def measure(section: str, title: str, found: Iterable, table: Callable[[list], list[list[str]]]) -> bool:
        """Print the table of a section. False if a call raises an error."""
        print(f"\n## {title}", flush=True)
        rows: list = []
        good = True
        try:
            collect(section, found, rows)
        except Exception:  # the next section may work
            traceback.print_exc()
            good = False
        print(report.table(table(rows)), flush=True)
        return good

    good = True
    if "correctness" in args.sections:
        print("\n## Correctness", flush=True)
        found: list = []
        collect("correctness", checks.run(every, setting), found)
        print(report.summary(found), flush=True)
        good = all(result.status in ("ok", "skipped") for result in found)
    if "host" in args.sections:
        good &= measure("host", "Host time a call", host.measure(setting, not problem), host.rows)
    if "bandwidth" in args.sections:
        good &= measure("bandwidth", "Time on large tensors", bandwidth.measure(setting, not problem), bandwidth.rows)
    if "training" in args.sections:
        try:
            from acon_mm.analysis.device_check import training_steps

            import_module("mmdet.models")
        except ImportError as error:
            print(f"\nTraining steps are not measured, because this needs OpenMMLab's packages and mmdet: {error}")
        else:
            steps = training_steps.measure(setting)
            good &= measure("training", "Training steps, over ReLU's", steps, training_steps.rows)
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
