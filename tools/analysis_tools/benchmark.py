"""ACON's time and memory: against nn.SiLU on tensors, against ReLU in whole models."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from tqdm import tqdm

from acon_mm.analysis.benchmark import models, operators, report
from acon_mm.analysis.benchmark.measure import pin_allocator


def shape(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split("x"))


def dtype(text: str) -> torch.dtype:
    found = getattr(torch, text, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise argparse.ArgumentTypeError(f"{text} is no floating point dtype of torch")
    return found


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["operators", "models", "all"])
    parser.add_argument("--out", default="work_dirs/benchmark", help="directory for JSON and Markdown")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=2.0, help="to measure each case; models take ten times that")
    group = parser.add_argument_group("operators")
    group.add_argument("--kinds", nargs="+", default=operators.KINDS, choices=operators.KINDS)
    group.add_argument("--shapes", type=shape, nargs="+", default=operators.SHAPES, metavar="NxCxHxW")
    group.add_argument("--dtypes", type=dtype, nargs="+", default=[torch.float32])
    group.add_argument("--layouts", nargs="+", default=["contiguous"], choices=operators.LAYOUTS)
    group.add_argument(
        "--peers", nargs="*", default=operators.PEERS, choices=operators.PEERS, help="beside SiLU, a copy"
    )
    group = parser.add_argument_group("models")
    group.add_argument("--models", nargs="+", default=models.MODELS_TO_MEASURE, choices=models.MODELS_TO_MEASURE)
    group.add_argument(
        "--variants",
        nargs="+",
        default=models.VARIANTS,
        choices=models.VARIANTS,
        help="beside ReLU; all in memory at once",
    )
    group.add_argument("--batch", type=int, default=1, help="pictures; PSPNet gets at least two")
    group.add_argument("--size", type=int, default=512, help="height and width of the pictures")
    group.add_argument("--no-memory", action="store_true", help="time alone")
    parser.add_argument("--keep-allocator", action="store_true", help="do not pin glibc's allocator (see the docs)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    device = torch.device(args.device)
    pinned = not args.keep_allocator and pin_allocator()
    text = [f"Machine: {report.machine(device)}; allocator {'pinned' if pinned else 'as it is'}."]
    results: dict[str, object] = {"machine": text[0]}
    if args.what in ("operators", "all"):
        cases = []
        found = operators.measure(
            args.kinds, args.shapes, args.dtypes, args.layouts, args.threads, device, args.peers, args.seconds
        )
        combinations = [args.kinds, args.shapes, args.dtypes, args.layouts, args.threads, ("forward", "both")]
        total = torch.tensor([len(each) for each in combinations]).prod().item()
        for case in tqdm(found, total=total, desc="operators"):
            cases.append(case)
            tqdm.write(f"{case.kind} {case.shape} {case.threads} thr. {case.passes}: {case.ratio['ours']:.2f} x SiLU")
        results["operators"] = [asdict(case) for case in cases]
        text += ["## Time over nn.SiLU's", report.operators_table(cases)]
    if args.what in ("models", "all"):
        measured = list(
            tqdm(
                models.measure(
                    args.models,
                    args.variants,
                    args.batch,
                    args.size,
                    args.threads,
                    device,
                    10 * args.seconds,
                    not args.no_memory,
                ),
                total=2 * len(args.models) * len(args.threads),
                desc="models",
            )
        )
        results["models"] = [asdict(case) for case in measured]
        heading = f"## Time (and peak memory) over ReLU's, {args.size}x{args.size}"
        text += [heading, report.models_table(measured)]
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "benchmark.json").write_text(json.dumps(results, indent=1))
    (out / "benchmark.md").write_text("\n\n".join(text) + "\n")
    print("\n\n".join(text))


if __name__ == "__main__":
    main()
