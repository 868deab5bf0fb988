"""The documentation's site builds without a warning, has every page, and loads nothing from elsewhere."""

import os
import re
import subprocess
import sys

import pytest
import yaml

from acon_mm.version import __version__
from helpers.pages import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    target = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", target],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return target


def test_every_page_is_in_the_site(site):
    pages = {path.relative_to(ROOT / "docs").with_suffix("") for path in (ROOT / "docs").rglob("*.md")}
    built = {path.parent.relative_to(site) for path in site.rglob("index.html")}
    assert {page.parent if page.name == "index" else page for page in pages} == built


def test_pages_load_nothing_from_elsewhere(site):
    for page in site.rglob("*.html"):
        loaded = re.findall(r"<(?:script|img|link|iframe)\b[^>]*?\b(?:src|href)=\"?([^\s\">]+)", page.read_text())
        assert loaded and not [url for url in loaded if re.match(r"(https?:)?//", url)]


def test_contributing_is_included(site):
    assert "How to add an activation" in (site / "contributing/index.html").read_text()


def test_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()  # what CFF 1.2.0 requires
    assert citation["version"] == __version__
    assert citation["license"] == "Apache-2.0"
    assert citation["preferred-citation"]["authors"][0] == {"family-names": "Ma", "given-names": "Ningning"}
