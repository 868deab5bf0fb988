"""Measure ACON's time: against nn.SiLU on tensors, with the memory that is kept, and against ReLU in whole models."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from acon_mm.analysis.benchmark import models, operators, report
from acon_mm.analysis.benchmark.measure import pin_allocator
from acon_mm.analysis.machine import usable_device
from acon_mm.engine import command_line
from acon_mm.files import read_json, write_file, write_json


def shapes_of(text: str) -> tuple[tuple[int, ...], ...]:
    if text in operators.SHAPES:
        return operators.SHAPES[text]
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)+", text):
        raise argparse.ArgumentTypeError(f"{text} is no shape such as 2x64 or 2x64x200x200")
    return (tuple(map(int, text.split("x"))),)


def dtype(text: str) -> torch.dtype:
    found = getattr(torch, text, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise argparse.ArgumentTypeError(f"{text} is not a floating point dtype of torch, such as float32 or bfloat16")
    return found


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = command_line.argument_parser(__doc__, "operators --acts AconC --shapes 2x64x56x56", config=False)
    parser.add_argument("what", choices=["operators", "models", "all"], help="what to measure")
    parser.add_argument(
        "--work-dir", default="work_dirs/benchmark", help="directory for JSON and Markdown (default: %(default)s)"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=command_line.positive_int, nargs="+", default=[1, 2])
    parser.add_argument(
        "--seconds", type=command_line.amount, default=2.0, help="to measure each case; models take ten times as long"
    )
    parser.add_argument("--keep-allocator", action="store_true", help="do not pin glibc's allocator (see the docs)")
    group = parser.add_argument_group("operators")
    group.add_argument("--acts", nargs="+", default=operators.ACTS, choices=operators.ACTS, help="activations")
    group.add_argument(
        "--shapes",
        type=shapes_of,
        nargs="+",
        default=[operators.SHAPES["maps"]],
        metavar="SHAPE",
        help=f"such as 2x64x200x200, or {', '.join(operators.SHAPES)} for a set of them (default: maps)",
    )
    group.add_argument("--dtypes", type=dtype, nargs="+", default=[torch.float32])
    group.add_argument("--layouts", nargs="+", default=["contiguous"], choices=operators.LAYOUTS)
    group.add_argument(
        "--peers", nargs="*", default=operators.PEERS, choices=operators.PEERS, help="besides SiLU and a copy"
    )
    group = parser.add_argument_group("models")
    group.add_argument("--models", nargs="+", default=models.MODELS_TO_MEASURE, choices=models.MODELS_TO_MEASURE)
    group.add_argument(
        "--variants",
        nargs="+",
        default=models.VARIANTS,
        choices=models.VARIANTS,
        help="besides ReLU; all are in memory together",
    )
    group.add_argument(
        "--batch", type=command_line.positive_int, default=1, help="number of pictures; PSPNet gets at least two"
    )
    group.add_argument("--size", type=command_line.positive_int, default=512, help="height and width of the pictures")
    return parser.parse_args(argv)


def measure_operators(args: argparse.Namespace, device: torch.device, done: int) -> Iterator[operators.Case]:
    choices = dict(
        acts=args.acts, shapes=sum(args.shapes, ()), dtypes=args.dtypes, layouts=args.layouts, threads=args.threads
    )
    found = operators.measure(**choices, peers=args.peers, device=device, seconds=args.seconds, done=done)
    for case in tqdm(found, total=2 * prod(map(len, choices.values())), initial=done, desc="operators"):
        yield case
        tqdm.write(f"{case.act} {case.shape} {case.threads} thr. {case.passes}: {case.ratio['ours']:.2f} x SiLU")


def measure_models(args: argparse.Namespace, device: torch.device, done: int) -> Iterator[models.ModelCase]:
    found = models.measure(
        models=args.models,
        variants=args.variants,
        batch=args.batch,
        size=args.size,
        threads=args.threads,
        device=device,
        seconds=10 * args.seconds,
        done=done,
    )
    return iter(tqdm(found, total=2 * len(args.models) * len(args.threads), initial=done, desc="models"))


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    with command_line.session(args.launcher, args.debug):
        run(args, usable_device(args.device))


def run(args: argparse.Namespace, device: torch.device) -> None:
    """Measure, and write after each case. A run that was interrupted goes on where it was."""
    pinned = not args.keep_allocator and pin_allocator()
    machine = f"Machine: {report.machine(device)}; allocator {'pinned' if pinned else 'as it is'}."
    chosen = {name: str(value) for name, value in vars(args).items() if name not in ("work_dir", "debug")}
    path = Path(args.work_dir, "benchmark.json")
    results: dict[str, Any] = {"machine": machine, "settings": chosen, "complete": False}
    before = read_json(path, *results) or {}
    if before.items() >= results.items():
        results = before
    write_json(path, results)  # an error now if it cannot be written
    text = [machine]
    of_models = f"Time over ReLU's, {args.size}x{args.size}"
    for what, case_type, measure, title, table in (
        ("operators", operators.Case, measure_operators, "Time over nn.SiLU's", report.operators_table),
        ("models", models.ModelCase, measure_models, of_models, report.models_table),
    ):
        if args.what not in (what, "all"):
            continue
        known = results.get(what, [])
        cases: list[Any] = [case_type(**case) for case in known[: len(known) // 2 * 2]]  # two for each setting
        if cases:
            print(f"{len(cases)} cases of {what} were measured before the interruption: {path}", file=sys.stderr)
        for case in measure(args, device, len(cases)):
            cases.append(case)
            results[what] = [asdict(each) for each in cases]
            write_json(path, results)
        text += [f"## {title}", table(cases)]
    print("\n\n".join(text))
    write_json(path, results | {"complete": True})
    write_file(path.with_suffix(".md"), "\n\n".join(text))


if __name__ == "__main__":
    main()
