"""What the documentation refers to exists: links, anchors, files, names of Python, flags of the tools.

So do the files that comments and docstrings of the package, the tools and the configs name.
"""

import ast
import importlib
import re
import tokenize
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from helpers.commands import tool_flags
from helpers.pages import FOLDERS, PAGES, ROOT, Page, read

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
    named = [code for code in page.inline_code if re.match(rf"({FOLDERS})/[^ ]*$", code)]
    assert not missing(named)


def test_files_that_comments_and_docstrings_name_are_there():
    modules = [path for folder in ("acon_mm", "configs", "tools") for path in (ROOT / folder).rglob("*.py")]
    named = {path: files_named_in(path) for path in modules}
    assert any(named.values())
    assert not {path: missing(names) for path, names in named.items() if missing(names)}


@pytest.mark.parametrize("text", ["# as tools/no_such.py does\n", '"""See configs/no_such/*.py."""\n'])
def test_a_missing_file_is_found(text, tmp_path):
    (tmp_path / "module.py").write_text(text)
    assert len(missing(files_named_in(tmp_path / "module.py"))) == 1


def files_named_in(path: Path) -> list[str]:
    """The files of the repository that the comments and docstrings of a module name."""
    with path.open("rb") as file:
        texts = [token.string for token in tokenize.tokenize(file.readline) if token.type == tokenize.COMMENT]
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, documented)]
    texts += [ast.get_docstring(node) or "" for node in nodes]
    return [name for text in texts for name in re.findall(rf"(?<![\w./-])(?:{FOLDERS})/[\w./*-]*[\w*]", text)]


def missing(names: list[str]) -> list[str]:
    """Those names, with ``*`` as a pattern, that no file of the repository has."""
    return [name for name in names if not list(ROOT.glob(name.rstrip("/")))]


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
