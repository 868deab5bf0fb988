"""The files of a comparison: ``results.json``, ``results.csv``, ``results.md``, ``report.html`` and ``figures/``."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...files import read_json, write_file
from ...learned import Layer
from ...learned.figures import learned as figures_of_learned
from ..page import Cell, Picture, rendered, style
from . import figures, page
from .statistics import BETTER, NO_DIFFERENCE, UNKNOWN, WORSE

_COLUMNS = ("variant", "seed", "status", "value", "step_time", "inference_time", "memory", "seconds", "directory")


def write(results: Mapping[str, Any], work_dir: Path) -> None:
    """Write all files."""
    tips = figures.Tips()
    drawn = {name: rendered(figure, name) for name, figure in figures.figures(results, tips).items()}
    learned: dict[str, dict[str, Picture]] = {}
    for label in _labels(results):
        directory = next(run["directory"] for run in results["runs"] if run["variant"] == label)
        with style():
            made = figures_of_learned(_layers(results, label))
        if made:
            prefix = Path(directory).parent.name
            learned[label] = {name: rendered(figure, f"{prefix}-{name}") for name, figure in made.items()}
    for picture in (*drawn.values(), *(each for of_variant in learned.values() for each in of_variant.values())):
        picture.save(work_dir / "figures")
    for name, text in {
        "results.json": json.dumps(results, indent=1) + "\n",
        "results.csv": _csv(results),
        "results.md": markdown(results),
        "report.html": page.html(results, sentences(results), drawn, learned, tips.texts),
    }.items():
        write_file(work_dir / name, text)


def _labels(results: Mapping[str, Any]) -> list[str]:
    return [each["label"] for each in results["variants"]]


def _layers(results: Mapping[str, Any], label: str) -> list[Layer]:
    """What the first run of a variant has learned."""
    runs = [run for run in results["runs"] if run["variant"] == label and run["status"] == "done"]
    found = read_json(Path(runs[0]["directory"]) / "activations.json") if runs else None
    return [Layer.from_dict(each) for each in found or ()]


def _csv(results: Mapping[str, Any]) -> str:
    """A row for each run, with all of its metrics."""
    metrics = sorted({name for run in results["runs"] for name in run["metrics"]})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_COLUMNS, *metrics])
    for run in results["runs"]:
        cells = [*(run[name] for name in _COLUMNS), *(run["metrics"].get(name) for name in metrics)]
        writer.writerow(["" if cell is None else cell for cell in cells])
    return text.getvalue()


def sentences(results: Mapping[str, Any]) -> list[str]:
    """The answer, a sentence for each variant beside the first."""
    answers = []
    base, name = results["base"], results["metric"]
    for each in results["variants"][1:]:
        found = each["difference"]
        text = f"{each['label']}: {found['verdict']}"
        if found["verdict"] in (BETTER, WORSE):
            text += f" than {base}"
        if found["low"] is not None:
            text += (
                f". {name} differs by {found['mean']:+.4g} on average over {len(found['seeds'])} seeds "
                f"(95 % interval {found['low']:+.4g} to {found['high']:+.4g})"
            )
        if found["verdict"] == NO_DIFFERENCE:
            text += ". The interval contains 0, so these runs do not show which is better. More seeds narrow it"
        elif found["verdict"] == UNKNOWN:
            text += f". A comparison needs at least two seeds that both {base} and {each['label']} have finished"
        answers.append(text + ".")
    failed = [f"{run['variant']}, seed {run['seed']}" for run in results["runs"] if run["status"] == "failed"]
    if failed:
        answers.append(f"Failed, and left out: {'; '.join(failed)}.")
    missing = sum(run["status"] == "not done" for run in results["runs"])
    if missing:
        answers.append(f"{missing} of {len(results['runs'])} runs are not done yet.")
    return answers


def markdown(results: Mapping[str, Any]) -> str:
    """The answer, and the tables of variants."""
    answers = "\n".join(f"- {sentence}" for sentence in sentences(results))
    tables = "\n\n".join(markdown_table(*each) for each in (page.answer_table(results), page.cost_table(results)))
    return f"# {results['config']}: {results['metric']}\n\n{answers}\n\n{tables}\n\n```\n{results['command']}\n```\n"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *([cell.text for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)
