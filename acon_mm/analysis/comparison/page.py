"""The report of a comparison as one HTML page that needs no network."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ...learned.figures import CAPTIONS
from ..page import Cell, Picture, document, number
from ..page import table as table_of
from .figures import COSTS

_CAPTIONS = {
    "metric": "Each dot is a run; the bar is the mean.",
    "difference": "The mean of the differences by seed, with its 95 % confidence interval (Student's t). An interval "
    "that contains 0 shows no difference.",
    "validation": "Validation during training: the mean over the seeds, in a band from the lowest to the highest.",
    "loss": "The loss in training: the mean over the seeds, in a band from the lowest to the highest.",
    "cost": "The metric against what it costs. Times mean little if other work went on at the same time.",
}


def answer_table(results: Mapping[str, Any]) -> tuple[list[str], list[list[Cell]]]:
    """Head and rows of the table that says which variant is better."""
    head = [
        "activation",
        results["metric"],
        "std over seeds",
        "runs",
        f"difference to {results['base']}",
        "95 % interval",
        "answer",
        "ACONs",
    ]
    rows = []
    for each in results["variants"]:
        found = each["difference"] or {"mean": None, "low": None, "high": None, "verdict": ""}
        interval = "" if found["low"] is None else f"{found['low']:+.4g} to {found['high']:+.4g}"
        failed = f", {len(each['failed'])} failed" if each["failed"] else ""
        rows.append(
            [
                Cell(each["label"], look="text"),
                number(each["mean"]),
                number(each["std"], ".2g"),
                Cell(f"{len(each['values'])}{failed}", len(each["values"]), "failed" if failed else ""),
                number(found["mean"], "+.4g"),
                Cell(interval, found["low"] if interval else ""),
                Cell(found["verdict"] or "(the base)", look=f"text {found['verdict'].split(' ')[0]}"),
                Cell(f"{each['acons']} of {each['sites']}", each["acons"]),
            ]
        )
    return head, rows


def cost_table(results: Mapping[str, Any]) -> tuple[list[str], list[list[Cell]]]:
    """Head and rows of the table of what each variant costs."""
    head = ["activation", *(text for text, _ in COSTS.values())]
    rows = [
        [
            Cell(each["label"], look="text"),
            *(number(each[name] and each[name] * factor) for name, (_, factor) in COSTS.items()),
        ]
        for each in results["variants"]
    ]
    return head, rows


def html(
    results: Mapping[str, Any],
    answers: Sequence[str],
    drawn: Mapping[str, Picture],
    learned: Mapping[str, Mapping[str, Picture]],
    tips: Mapping[str, str],
) -> str:
    """The page.

    Args:
        results: see :func:`acon_mm.analysis.comparison.results.collect`.
        answers: sentences.
        drawn: the figures, by name.
        learned: those of what was learned, by variant and name.
        tips: texts for parts of the figures, by their ``gid``.
    """
    title = f"{', '.join(each['label'] for each in results['variants'])}: {results['config']}"
    runs_head, runs = _runs(results)
    better = "smaller" if results["less_is_better"] else "larger"
    body = [
        "<h1>Which activation is better here?</h1>",
        f"<p>Config <code>{escape(results['config'])}</code>; "
        f"metric <b>{escape(results['metric'])}</b> ({better} is better).</p>",
        "<ul>" + "".join(f"<li>{escape(each)}</li>" for each in answers) + "</ul>",
        table_of(*answer_table(results)),
        *(picture.html(_CAPTIONS[name]) for name, picture in drawn.items() if name != "cost"),
        "<h2>What does it cost?</h2>",
        table_of(*cost_table(results)),
        *(picture.html(_CAPTIONS[name]) for name, picture in drawn.items() if name == "cost"),
        "<h2>Is it fair?</h2>",
        _fairness(results),
        *(
            f"<h2>What {escape(label)} has learned</h2>"
            + "".join(picture.html(CAPTIONS[name], inline=False) for name, picture in of.items())
            for label, of in learned.items()
        ),
        "<h2>All runs</h2>",
        table_of(runs_head, runs),
        "<h2>How to repeat it</h2>",
        f"<pre>{escape(results['command'])}</pre>",
        f"<p>{escape(results['machine'])}; "
        + ", ".join(f"{k} {escape(v)}" for k, v in results["versions"].items())
        + ".</p>",
        "<details><summary>The commands of each run</summary><pre>"
        + escape("\n".join(command for run in results["runs"] for command in run["commands"]))
        + "</pre></details>",
    ]
    return document(title, body, tips)


def _fairness(results: Mapping[str, Any]) -> str:
    starts = results["starts"]
    alike = all(len(digests) == 1 for digests in starts.values())
    digests = ", ".join(f"seed {seed}: {' and '.join(found)}" for seed, found in starts.items())
    same = "the same" if alike else "<b class='failed'>not the same</b>"
    height, width = results["shape"]
    return f"""<ul>
<li>Runs of one seed start from {same} values in everything that is not an activation. Digests: {escape(digests)}.</li>
<li>They see the same data in the same order. All random generators are seeded anew before each step with the seed and
the step, so dropout, sampling and augmentation are the same, however many random numbers an activation draws.</li>
<li>Schedule and settings are the same. ACON's own parameters have no weight decay, as in the authors' training,
unless the config says otherwise.</li>
<li>Training time is the median of a step without loading data; inference is the model's step in the test, without
loading data. Memory is the peak in training. Multiply-adds are those of one picture of {height} x {width}; each other
product or sum of an activation counts as one as well, a sigmoid as four.</li>
<li>The intervals are 95 % intervals, each by itself: of twenty comparisons without any difference, one shows one.</li>
</ul>"""


def _runs(results: Mapping[str, Any]) -> tuple[list[str], list[list[Cell]]]:
    head = ["activation", "seed", "status", results["metric"], "step, ms", "inference, ms", "memory, GiB"]
    head.append("seconds, if not resumed")
    rows = [
        [
            Cell(run["variant"], look="text"),
            Cell(str(run["seed"]), run["seed"]),
            Cell(run["failure"] or run["status"], look=f"text {run['status']}"),
            number(run["value"]),
            number(run["step_time"] and run["step_time"] * 1e3),
            number(run["inference_time"] and run["inference_time"] * 1e3),
            number(run["memory"] and run["memory"] / 2**30),
            number(run["seconds"]),
        ]
        for run in results["runs"]
    ]
    return head, rows
