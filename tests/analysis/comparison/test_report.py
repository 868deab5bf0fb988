"""The report of a comparison: its files, and the page in a browser."""

import csv
import json
from html.parser import HTMLParser

import pytest

from acon_mm.analysis.comparison import report
from helpers.comparison import after_script, results

pytestmark = pytest.mark.slow  # drawing the figures takes seconds


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    directory = tmp_path_factory.mktemp("report")
    learned = {"name": "layer1.act", "type": "AconC", "p1": [1.0, 1.2], "p2": [0.0, 0.9], "beta": [1.0, 40.0]}
    (directory / "v1" / "seed_0").mkdir(parents=True)
    (directory / "v1" / "seed_0" / "activations.json").write_text(json.dumps([learned]))
    found = results(directory)
    report.write(found, directory)
    return directory, found


class Outline(HTMLParser):
    """Ids, addresses and texts of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.ids, self.addresses, self.texts, self.open = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            elif name in ("src", "href", "xlink:href", "action"):
                self.addresses.append(value)

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(data)


def test_sentences(written):
    better, unsure, failed = report.sentences(written[1])
    assert better.startswith(
        "AconC: better than ReLU. coco/bbox_mAP differs by +0.05167 on average over 3 seeds (95 % "
    )
    assert unsure.startswith("<b>Odd</b> & co: no difference seen. ") and "over 2 seeds" in unsure
    assert "contains 0" in unsure and failed == "Failed, and left out: <b>Odd</b> & co, seed 1."


def test_files(written):
    directory, _ = written
    assert json.loads((directory / "results.json").read_text())["variants"][1]["label"] == "AconC"
    rows = list(csv.DictReader((directory / "results.csv").read_text().splitlines()))
    assert len(rows) == 9 and (rows[0]["value"], rows[7]["status"], rows[7]["value"]) == ("0.4", "failed", "")
    lines = (directory / "results.md").read_text().splitlines()
    assert sum(line.startswith("| AconC | 0.4617 | ") for line in lines) == 1
    names = {"metric", "difference", "validation", "loss", "cost", "v1-curves", "v1-shares", "v1-spreads"}
    assert {path.stem for path in (directory / "figures").iterdir()} == names
    for name in names:
        assert (directory / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (directory / "figures" / f"{name}.svg").read_text().startswith("<svg")


def test_the_page_is_one_file_that_says_everything(written):
    directory, found = written
    outline = Outline((directory / "report.html").read_text())
    assert all(address.startswith(("#", "data:")) for address in outline.addresses)
    assert len(set(outline.ids)) == len(outline.ids)
    text = " ".join(outline.texts)
    for said in (
        *report.sentences(found),
        found["command"],
        "python train.py v2 2",
        "digest1",
        "torch 2.13",
        "it broke",
    ):
        assert said in text, said


SORT = """
const [table, costs] = document.querySelectorAll("table.sortable");
const column = [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent === "coco/bbox_mAP");
const order = (of = table) => [...of.tBodies[0].rows].map((row) => row.cells[0].textContent).join(";");
const button = table.tHead.rows[0].cells[column].querySelector("button");
const found = [order()];
button.click(); found.push(order());
button.click(); found.push(order(), table.tHead.rows[0].cells[column].getAttribute("aria-sort"));
const last = [...costs.tHead.rows[0].cells].findIndex((cell) => cell.textContent.startsWith("multiply-adds"));
const other = costs.tHead.rows[0].cells[last].querySelector("button");
for (let i = 0; i < 2; i++) { other.click(); found.push(order(costs)); }
"""
HOVER = """
const tip = document.getElementById("tip");
const part = document.querySelector("[id^=tip-] use");
part.scrollIntoView();
const box = part.getBoundingClientRect();
const at = { clientX: box.x + box.width / 2, clientY: box.y + box.height / 2, bubbles: true };
found.push(tip.style.display);
document.elementFromPoint(at.clientX, at.clientY).dispatchEvent(new MouseEvent("mousemove", at));
found.push(tip.style.display, tip.textContent);
document.body.dispatchEvent(new MouseEvent("mousemove", { bubbles: true }));
found.push(tip.style.display, String(Object.keys(tips).every((id) => document.getElementById(id))));
document.title = found.join("|");
"""


def test_sorting_and_hovering_in_a_browser(written):
    odd = "&lt;b&gt;Odd&lt;/b&gt; &amp; co"
    expected = [
        f"ReLU;AconC;{odd}",
        f"{odd};ReLU;AconC",
        f"AconC;ReLU;{odd}",
        "descending",
        # a row without a value is last both ways
        f"ReLU;AconC;{odd}",
        f"AconC;ReLU;{odd}",
        *("", "block", "ReLU, seed 0: 0.4", "none", "true"),
    ]
    assert after_script(written[0] / "report.html", SORT + HOVER).split("|") == expected
