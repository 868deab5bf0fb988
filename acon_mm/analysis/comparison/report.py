"""The files of a comparison: ``results.json``, ``results.csv``, ``results.md``, ``report.html`` and ``figures/``."""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...files import replacing
from ...learned import Layer
from ...learned.figures import learned as figures_of_learned
from ..page import save, style
from . import figures, page
from .results import read_json
from .statistics import BETTER, NO_DIFFERENCE, UNKNOWN, WORSE

_COLUMNS = ("variant", "seed", "status", "value", "step_time", "inference_time", "memory", "seconds", "directory")


def write(results: Mapping[str, Any], work_dir: Path) -> None:
    """Write all files."""
    tips = figures.Tips()
    drawn = figures.figures(results, tips)
    with style():
        learned = {label: made for label in _labels(results) if (made := figures_of_learned(_layers(results, label)))}
    for name, figure in drawn.items():
        save(figure, work_dir / "figures" / name)
    for label, of_variant in learned.items():
        directory = next(run["directory"] for run in results["runs"] if run["variant"] == label)
        for name, figure in of_variant.items():
            save(figure, work_dir / "figures" / f"{Path(directory).parent.name}-{name}")
    for name, text in {
        "results.json": json.dumps(results, indent=1) + "\n",
        "results.csv": _csv(results),
        "results.md": markdown(results),
        "report.html": page.html(results, sentences(results), drawn, learned, tips.texts),
    }.items():
        with replacing(work_dir / name) as file:
            file.write(text.encode())


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
            text += ". The interval contains 0, so these runs do not show which one is better"
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
    """The table of variants, with the answer."""
    head, rows = page.table(results)
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *([cell.text for cell in row] for row in rows)]
    table = "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)
    answers = "\n".join(f"- {sentence}" for sentence in sentences(results))
    return f"# {results['config']}: {results['metric']}\n\n{answers}\n\n{table}\n\n```\n{results['command']}\n```\n"
