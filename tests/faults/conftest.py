"""The fault campaign: each test plants faults of one kind and counts how they end.

survived: the result is right all the same. clear: one line tells what is wrong. unclear: it ends, but with a traceback.
lost: data are lost, a result is silently wrong, or the process crashes or hangs.
"""

from collections import Counter, defaultdict
from pathlib import Path

import pytest

OUTCOMES = ("survived", "clear", "unclear", "lost")
_found: dict[str, Counter] = defaultdict(Counter)


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.faults)
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def tally(request, record_property):
    """A function that counts an outcome: ``tally("clear", "what was planted")``. Lost data fail the test."""
    counts, bad = Counter(), []

    def count(outcome: str, what: str = "") -> None:
        assert outcome in OUTCOMES
        counts[outcome] += 1
        if outcome in ("unclear", "lost"):
            bad.append(f"{outcome}: {what}")

    yield count
    record_property("faults", [request.node.originalname, dict(counts), bad])
    assert not counts["lost"] and counts["unclear"] <= 0.02 * counts.total(), "\n".join(bad)


def pytest_runtest_logreport(report):
    if report.when == "teardown":
        for name, value in report.user_properties:
            if name == "faults":
                _found[value[0]].update(value[1])


def pytest_terminal_summary(terminalreporter):
    if not _found:
        return
    terminalreporter.section("faults")
    total = sum(_found.values(), Counter())
    for name, counts in [*_found.items(), ("all", total)]:
        text = ", ".join(f"{counts[outcome]} {outcome}" for outcome in OUTCOMES)
        terminalreporter.write_line(f"{name}: {counts.total()} planted, {text}")
