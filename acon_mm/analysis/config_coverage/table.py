"""The results of a check of all configs as Markdown, by family of configs."""

from collections import Counter, defaultdict
from collections.abc import Iterable

from ..shipped_configs import family

_STATES = ("converted", "none", "failed", "unbuildable", "unreadable", "no model", "pending")


def _result(report: dict, name: str) -> dict:
    entry = report["configs"][name]
    return report["models"].get(entry["model"], {"status": "pending"}) if "model" in entry else entry


def failures(report: dict) -> list[str]:
    """The configs that have a problem, or are not checked yet."""
    return [name for name in report["configs"] if _result(report, name)["status"] in ("failed", "pending")]


def summary(report: dict) -> str:
    """The numbers of configs and models, one line for each package."""
    lines = []
    for package in ("mmdet", "mmseg"):
        names = [name for name in report["configs"] if name.startswith(package)]
        states = Counter(_result(report, name)["status"] for name in names)
        models = {report["configs"][name].get("model") for name in names} - {None}
        counts = ", ".join(f"{states[state]} {state}" for state in _STATES if states[state])
        lines.append(f"{package}: {len(names)} configs ({len(models)} distinct models): {counts}")
    return "\n".join(lines)


def markdown(report: dict) -> str:
    """The whole report."""
    parts = [summary(report).replace("\n", "\n\n"), _effort(report), _families(report)]
    for title, section in (
        ("Failed", _problems(report)),
        ("What is not converted, and why", _kept(report)),
        ("No activation to convert", _errors(report, "none")),
        ("No gradient, with ACON and without", _unused(report)),
        ("Passes that fail with ACON and without", _not_run(report)),
        ("Not built by their own package", _errors(report, "unbuildable", "unreadable")),
        ("Without a model", _listed(report, "no model")),
    ):
        if section:
            parts.append(f"## {title}\n\n{section}")
    return "\n\n".join(parts) + "\n"


def _effort(report: dict) -> str:
    seconds = [result.get("cpu_seconds", 0) for result in report["models"].values()]
    return f"{len(seconds)} models took {sum(seconds) / 60:.1f} minutes of processor time." if seconds else ""


def _families(report: dict) -> str:
    rows = [
        "| family | configs | converted | has none | failed | pending | not built | models | run | sites | ACONs |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    groups = defaultdict(list)
    for name in report["configs"]:
        groups[family(name)].append(name)
    for group, names in sorted(groups.items()):
        results = [_result(report, name) for name in names]
        states = Counter(result["status"] for result in results)
        models = {result["key"]: result for result in results if "key" in result}.values()
        ran = sum(bool(each.get("passes")) for each in models)
        rows.append(
            f"| {group} | {len(names)} | {states['converted']} | {states['none']} | "
            f"{states['failed']} | {states['pending']} | "
            f"{states['unbuildable'] + states['unreadable'] + states['no model']} | "
            f"{len(models)} | {ran} | "
            f"{sum(each.get('sites', 0) for each in models)} | {sum(each.get('converted', 0) for each in models)} |"
        )
    return "\n".join(rows)


def _problems(report: dict) -> str:
    """One line for each problem, with the configs that have it."""
    return _grouped(
        (f"{name}: {detail}", result["config"])
        for result in report["models"].values()
        for name, details in result.get("problems", {}).items()
        for detail in details
    )


def _kept(report: dict) -> str:
    counts: Counter[str] = Counter()
    models: Counter[str] = Counter()
    for result in report["models"].values():
        for source in ("kept", "kept_calls"):
            for reason, count in result.get(source, {}).items():
                counts[reason] += count
                models[reason] += 1
    rows = [f"| {reason} | {count} | {models[reason]} |" for reason, count in counts.most_common()]
    return "\n".join(["| reason | activations | models |", "|---|---|---|", *rows]) if rows else ""


def _not_run(report: dict) -> str:
    return _grouped(
        (f"{name}: {error}", result["config"])
        for result in report["models"].values()
        for name, error in result.get("not_run", {}).items()
    )


def _unused(report: dict) -> str:
    models = report["models"].values()
    return _grouped((_first_three(each["unused"]), each["config"]) for each in models if each.get("unused"))


def _errors(report: dict, *states: str) -> str:
    results = ((_result(report, name), name) for name in report["configs"])
    return _grouped((result["error"], name) for result, name in results if result["status"] in states)


def _grouped(found: Iterable[tuple[str, str]]) -> str:
    """A line for each text, with the configs that have it; the most frequent first."""
    where = defaultdict(list)
    for text, config in found:
        where[text].append(config)
    ranked = sorted(where.items(), key=lambda item: -len(item[1]))
    return "\n".join(f"- {text}: {_first_three(configs)}" for text, configs in ranked)


def _listed(report: dict, state: str) -> str:
    return "\n".join(f"- {name}" for name in report["configs"] if _result(report, name)["status"] == state)


def _first_three(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
