"""Compare activations on one config: train and test it with each, over several seeds, and report which is better.

Each run is the ordinary training and test in processes of its own. The same command goes on after a kill, tries again
what failed, and takes more seeds or activations. The report is in `report.html`, `results.md`, `results.csv`,
`results.json` and `figures/` of the work directory.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

import acon_mm  # noqa: F401  registers activations and datasets
from acon_mm.analysis.comparison import execute, report, results, variants
from acon_mm.analysis.machine import refuse_windows
from acon_mm.engine import command_line
from acon_mm.files import read_json, write_json

TOOLS = Path(__file__).resolve().parents[1]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = command_line.argument_parser(
        __doc__, "configs/detection/retinanet_r18_fpn_6e_digits.py --acts ReLU AconC --seeds 5"
    )
    parser.add_argument(
        "--acts",
        nargs="+",
        default=["ReLU", "AconC"],
        metavar="ACT",
        help="activations, with options as in 'MetaAconC(norm_cfg=None)'; the others are compared with the first one. "
        "`config` means the config as it is (default: ReLU AconC)",
    )
    parser.add_argument(
        "--sites", nargs="+", help="act_sites: paper, all, or names with commas between them (default: of each class)"
    )
    parser.add_argument(
        "--parts",
        nargs="+",
        default=["backbone"],
        help="parts: backbone, neck, head, a key of the model, several with + in between, or model (default: backbone)",
    )
    parser.add_argument("--init", nargs="+", help="initial values of the ACONs: swish, relu, paper")
    parser.add_argument(
        "--lr-mult",
        nargs="+",
        type=float,
        default=[1.0],
        metavar="X",
        help="learning rate of ACON's own parameters, as a multiple of the others'",
    )
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[3], metavar="N", help="one number: how many; several: the seeds"
    )
    parser.add_argument(
        "--jobs", type=command_line.positive_int, default=1, help="runs at a time, on one GPU each (default: 1)"
    )
    parser.add_argument("--metric", help="a metric of the test (default: bbox_mAP or mIoU)")
    parser.add_argument("--less-is-better", action="store_true", help="a smaller value of the metric is better")
    parser.add_argument("--work-dir", help="default: work_dirs/compare_CONFIG_NAME")
    parser.add_argument("--delete-checkpoints", action="store_true", help="delete those of a run after its test")
    parser.add_argument("--only", type=int, metavar="I", help="do run number I (from 0) only, without a report")
    parser.add_argument("--report", action="store_true", help="only write the report, of the runs that are done")
    parser.add_argument("--slurm", action="store_true", help="print a Slurm array script with all runs, and do none")
    args = parser.parse_args(argv)
    args.work_dir = args.work_dir or str(Path("work_dirs", f"compare_{Path(args.config).stem}"))
    return args


def check(args: argparse.Namespace) -> list[int]:
    """The seeds, after a check of the flags that need no config."""
    refuse_windows("compare.py")
    seeds = list(range(args.seeds[0])) if len(args.seeds) == 1 else args.seeds
    given = " ".join(map(str, args.seeds))
    if not seeds or min(seeds) < 0:
        raise command_line.UserError(f"--seeds needs at least one seed from 0 on, got {given}")
    if len(set(seeds)) < len(seeds):
        raise command_line.UserError(f"--seeds has a seed twice, got {given}")
    return seeds


def planned(cfg: Config, args: argparse.Namespace) -> tuple[list[variants.Variant], dict[str, dict]]:
    """What to compare, and what each is. It is kept in the work directory, since large models take time."""
    candidates = variants.variants(args.acts, args.sites, args.parts, args.init, args.lr_mult)
    file = Path(args.work_dir, "variants.json")
    kept = read_json(file, "config", "described") or {}
    key = cfg.pretty_text
    described = kept["described"] if kept.get("config") == key else {}
    known = len(described)
    chosen = variants.different(cfg, candidates, described)
    if len(described) > known:
        write_json(file, {"config": key, "described": described})
    for each in chosen:
        found = described[each.label]
        # With --slurm, a script alone goes to stdout.
        where = sys.stderr if args.slurm else sys.stdout
        print(f"{each.label}: {found['acons']} of {found['sites']} activations are ACONs", file=where)
    return chosen, described


def slurm_script(count: int, args: argparse.Namespace, argv: Sequence[str]) -> str:
    """A script for sbatch: one task for each run. The same command without --slurm makes the report afterwards."""
    command = shlex.join([sys.executable, str(Path(__file__).resolve()), *(each for each in argv if each != "--slurm")])
    # --only comes first, because --cfg-options takes all that follows it.
    program, script, rest = command.split(" ", 2)
    return f"""#!/usr/bin/env bash
#SBATCH --job-name=compare
#SBATCH --array=0-{count - 1}%{args.jobs}
#SBATCH --gpus=1
#SBATCH --cpus-per-task=5
# When all tasks have ended: {command}
set -euo pipefail
{program} {script} --only "$SLURM_ARRAY_TASK_ID" {rest}
"""


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parse_args(argv)
    with command_line.session(args.launcher, args.debug):
        seeds = check(args)
        work_dir = Path(args.work_dir)
        needs = ("model", "train_cfg", "train_dataloader", "optim_wrapper", "test_dataloader", "test_evaluator")
        cfg = command_line.load_config(args, needs=needs)
        command_line.check_pretrained(cfg.model)
        chosen, described = planned(cfg, args)
        runs = execute.prepare(cfg, chosen, seeds, work_dir, TOOLS)
        if args.slurm:
            print(slurm_script(len(runs), args, argv), end="")
        elif args.only is not None:
            if not 0 <= args.only < len(runs):
                raise command_line.UserError(f"--only must be from 0 to {len(runs) - 1}, got {args.only}")
            execute.execute([runs[args.only]], 1, not args.delete_checkpoints)
        else:
            if not args.report:
                execute.execute(runs, args.jobs, not args.delete_checkpoints)
            metric = results.choose_metric(runs, args.metric)
            given = [each for each in argv if each != "--report"]
            command = shlex.join(["python", "tools/analysis_tools/compare.py", *given])
            found = results.collect(runs, described, args.config, command, metric, args.less_is_better)
            report.write(found, work_dir)
            print(report.markdown(found))
            print(f"The report is in {work_dir / 'report.html'}")
    if any(run.failure for run in runs):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
