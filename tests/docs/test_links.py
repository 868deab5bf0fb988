"""What README, CONTRIBUTING and docs/ refer to exists: links, anchors, files, names of Python, flags of the tools."""

import importlib
import re
from urllib.parse import urlsplit

import pytest

from helpers.commands import tool_flags
from helpers.pages import PAGES, ROOT, Page, read

#: flags of pip and mkdocs
OTHERS_FLAGS = {"--index-url", "--no-build-isolation", "--no-deps", "--strict"}


@pytest.fixture(params=PAGES, ids=lambda path: path.name)
def page(request) -> Page:
    return read(request.param)


def test_relative_links_lead_somewhere(page):
    broken = []
    for link in page.links:
        target, _, anchor = link.partition("#")
        if "://" in link:
            continue
        path = (page.path.parent / target) if target else page.path
        if not path.exists() or (anchor and anchor not in read(path).anchors):
            broken.append(link)
    assert not broken


def test_external_links_are_well_formed(page):
    external = [urlsplit(link) for link in page.links if "://" in link]
    assert all(url.scheme == "https" and re.fullmatch(r"[\w.-]+\.\w+", url.netloc) for url in external), external


def test_files_of_the_repository_are_there(page):
    """Inline code such as `acon_mm/layers/acon.py` or `tests/convert/test_tables_*.py`."""
    named = [code for code in page.inline_code if re.match(r"(acon_mm|configs|docs|tests|tools)/[^ ]*$", code)]
    assert not [name for name in named if not list(ROOT.glob(name.rstrip("/")))]


def test_files_in_the_diagram_are_there():
    diagram = (ROOT / "docs/images/how_it_works.svg").read_text()
    named = [name for text in re.findall(r'class="file">([^<]+)<', diagram) for name in text.strip(",").split(", ")]
    assert named and not [name for name in named if not list((ROOT / "acon_mm").rglob(name.rstrip("/")))]


def test_python_names_are_there(page):
    """Inline code such as `acon_mm.checkpoints.load_state_dict` or `acon_mm.patches.uninstall()`."""
    for code in page.inline_code:
        if re.fullmatch(r"acon_mm(\.\w+)+(\(.*\))?", code):
            resolve(code.partition("(")[0])


def resolve(name: str) -> object:
    module, *rest = name.split(".")
    found = importlib.import_module(module)
    for part in rest:
        module = f"{module}.{part}"
        found = getattr(found, part) if hasattr(found, part) else importlib.import_module(module)
    return found


def test_flags_are_there(page):
    named = {flag for code in page.inline_code for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", code)}
    assert not named - tool_flags() - OTHERS_FLAGS
