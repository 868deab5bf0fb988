"""Fill the tables of docs/results.md with what `tools/analysis_tools/compare.py` has found.

`python docs/make_results.py` takes the work directories that are there. With `--run`, the commands of the page run
first, where their data are; they go on where they stopped. A table is between ``<!-- results: NAME -->``, where NAME is
a directory in `work_dirs/`, and ``<!-- end -->``. ``<!-- results: NAME; ReLU 35.2, AconC 36.0 -->`` adds a column with
published figures.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from acon_mm.analysis.comparison.report import markdown_table, sentences
from acon_mm.analysis.page import Cell
from acon_mm.files import replacing

PAGE = Path(__file__).parent / "results.md"
_TABLE = re.compile(r"(<!-- results: (\S+?)(?:; (.*?))? -->\n).*?(<!-- end -->)", re.DOTALL)
_COMMAND = re.compile(r"^python (tools/analysis_tools/compare\.py (?:.*\\\n)*.*)$", re.MULTILINE)


def filled(text: str, work_dirs: Path) -> str:
    """The page with the tables for which there are results."""

    def table(found: re.Match) -> str:
        file = work_dirs / found[2] / "results.json"
        if not file.exists():
            return found[0]
        results = json.loads(file.read_text())
        published = dict(each.rsplit(" ", 1) for each in found[3].split(", ")) if found[3] else {}
        return f"{found[1]}\n{results_table(results, published)}\n\n{found[4]}"

    return _TABLE.sub(table, text)


def results_table(results: Mapping[str, Any], published: Mapping[str, str]) -> str:
    """The value of each seed, mean, spread and difference of each variant; the answers; where it was computed."""
    seeds = sorted({run["seed"] for run in results["runs"] if run["status"] == "done"})
    head = [results["metric"], *(f"seed {seed}" for seed in seeds), "mean", "std"]
    head += [f"difference to {results['base']}", "95 % interval", *(["published"] if published else [])]
    rows = []
    for each in results["variants"]:
        values = {int(seed): value for seed, value in each["values"].items()}  # JSON has only texts as keys
        difference = each["difference"] or {"mean": None, "low": None}
        row = [each["label"], *(_number(values.get(seed)) for seed in seeds), _number(each["mean"])]
        row += [_number(each["std"], ".2g"), _number(difference["mean"], "+.3g")]
        row += ["" if difference["low"] is None else f"{difference['low']:+.3g} to {difference['high']:+.3g}"]
        rows.append(row + ([published.get(each["label"], "")] if published else []))
    answers = "\n".join(f"- {sentence}" for sentence in sentences(results))
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    cells = [[Cell(text) for text in row] for row in rows]
    return f"{markdown_table(head, cells)}\n\n{answers}\n\n{results['machine']}; {versions}."


def _number(value: float | None, form: str = ".4g") -> str:
    return "" if value is None else format(value, form)


def commands(text: str) -> list[list[str]]:
    """The comparisons of the page, in its order."""
    return [shlex.split(found.replace("\\\n", " ")) for found in _COMMAND.findall(text)]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="store_true", help="run the commands of the page first")
    parser.add_argument("--only", default="", metavar="TEXT", help="with --run: the commands that contain this text")
    parser.add_argument("--jobs", default="1", help="with --run: see compare.py")
    parser.add_argument("--work-dirs", type=Path, default=Path("work_dirs"))
    args = parser.parse_args(argv)
    failed = []
    for tool, *command in commands(PAGE.read_text()) if args.run else ():
        if args.only in shlex.join(command):
            print(f"$ python {tool} {shlex.join(command)}", flush=True)
            if subprocess.run([sys.executable, tool, "--jobs", args.jobs, *command]).returncode:
                failed.append(shlex.join(command))
    text = filled(PAGE.read_text(), args.work_dirs)
    with replacing(PAGE) as file:
        file.write(text.encode())
    if failed:
        sys.exit("These have not ended well; their data may be missing:\n" + "\n".join(failed))


if __name__ == "__main__":
    main()
