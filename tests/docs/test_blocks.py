"""Every code block of README, CONTRIBUTING and docs/ runs, page by page, in order, in a directory of its own.

- ``python`` is executed. A config (it has ``_base_``, or a mark ``<!-- base: CONFIG -->``) is loaded, and its model,
  its optimizer and the hooks that it names are built. With a ``title="FILE"`` the block is written to that file; one
  that is no config is then imported.
- ``bash`` is run. With a mark ``<!-- not run: REASON -->`` its files, configs, settings and flags are checked instead.
- ``text`` with a mark ``<!-- output -->`` is what the Python block before it prints; other ``text`` is only shown.
- ``bibtex`` is only shown.
"""

import ast
import contextlib
import importlib
import io
import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, MODELS, DefaultScope

from acon_mm.convert.hosts import Host
from helpers.commands import check, commands_of
from helpers.pages import PAGES, ROOT, Block, read


class Session:
    """What a reader has who follows a page: a directory, a shell's environment, variables of Python.

    Args:
        directory: empty; it is the current one, and Python finds modules in it.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        for name in ("configs", "docs", "tools"):
            (directory / name).symlink_to(ROOT / name)
        here = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "MPLBACKEND": "Agg"}
        self.environment = os.environ | here
        self.variables: dict = {"__name__": "page"}
        self.printed: str | None = None

    def run(self, block: Block) -> None:
        if block.language == "python":
            if "_base_" in assigned(block.text) or "base" in block.marks:
                self.build(block)
            elif block.title:
                (self.directory / block.title).write_text(block.text)
                importlib.import_module(block.title.removesuffix(".py"))
            else:
                self.execute(block)
        elif block.language == "bash":
            if "not run" in block.marks:
                assert block.marks["not run"], f"{block.place}: a block that is not run needs a reason"
                for command in commands_of(block.text):
                    check(command)
            else:
                self.shell(block)
        elif block.language == "text":
            if "output" in block.marks:
                assert self.printed == block.text
        else:
            assert block.language == "bibtex", f"{block.place}: no test runs blocks of {block.language!r}"

    def execute(self, block: Block) -> None:
        source = "\n" * (block.line - 1) + block.text
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(source, str(block.page), "exec"), self.variables)
        self.printed = "".join(f"{line.rstrip()}\n" for line in printed.getvalue().splitlines())

    def build(self, block: Block) -> None:
        """Load the config, and build its model, its optimizer and the hooks that it names."""
        text = block.text
        if "base" in block.marks:
            text = f"_base_ = {block.marks['base']!r}\ncustom_imports = dict(imports=['acon_mm'])\n{text}"
        path = self.directory / (block.title or "config.py")
        path.write_text(text)
        cfg = Config.fromfile(path)
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            model = MODELS.build(deepcopy(cfg.model))
            build_optim_wrapper(model, deepcopy(cfg.optim_wrapper))
            for hook in cfg.default_hooks.values():
                if hook.type in block.text:
                    HOOKS.build(deepcopy(hook))
        classes = {type(module).__name__ for module in model.modules()}
        assert act_types(text) <= classes

    def shell(self, block: Block) -> None:
        after = self.directory / ".environment"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f"{block.text}\nenv -0 > {after}"],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{block.place}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        self.environment = dict(entry.split("=", 1) for entry in after.read_text().split("\0") if entry)


def assigned(text: str) -> set[str]:
    """The names that a block assigns at its top level."""
    targets = [target for node in ast.parse(text).body if isinstance(node, ast.Assign) for target in node.targets]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def act_types(text: str) -> set[str]:
    """The types in every ``act_cfg=dict(type=...)`` of a config."""
    keywords = [each for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call) for each in node.keywords]
    return {
        each.value.value
        for keyword in keywords
        if keyword.arg == "act_cfg" and isinstance(keyword.value, ast.Call)
        for each in keyword.value.keywords
        if each.arg == "type"
    }


@pytest.fixture
def session(tmp_path, monkeypatch):
    """A session, whose imports and registrations are undone."""
    MMLogger.get_current_instance()  # or it would write into what a block prints
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(Host, "_by_method", dict(Host._by_method))
    monkeypatch.setattr(DefaultScope, "_instance_dict", DefaultScope._instance_dict.copy())
    yield Session(tmp_path)
    own = {"page", *(path.stem for path in tmp_path.glob("*.py"))}
    for registry in (MODELS, *MODELS.children.values()):
        for name in [name for name, found in registry.module_dict.items() if found.__module__ in own]:
            del registry.module_dict[name]
    for name in own:
        sys.modules.pop(name, None)


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    PAGES,
    ids=lambda path: path.name,
)
def test_blocks_of_a_page_run(path, session):
    for block in read(path).blocks:
        session.run(block)


BASE = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"
WRONG = {
    "code": ("python", "1 / 0", {}, ZeroDivisionError),
    "activation": ("python", "model = dict(backbone=dict(act_cfg=dict(type='No')))", {"base": BASE}, ValueError),
    "base": ("python", "_base_ = 'mmdet::no/such.py'", {}, FileNotFoundError),
    "command": ("bash", "false", {}, AssertionError),
    "no reason": ("bash", "make test", {"not run": ""}, AssertionError),
    "config": ("bash", "python tools/train.py configs/no_such.py", {"not run": "COCO"}, FileNotFoundError),
    "flag": ("bash", "python tools/train.py configs/_base_/acon.py --no-such", {"not run": "COCO"}, SystemExit),
    "tool": ("bash", "python tools/no_such.py", {"not run": "COCO"}, FileNotFoundError),
    "target": ("bash", "make no-such-target", {"not run": "slow"}, AssertionError),
    "extra": ("bash", "pip install '.[no-such]'", {"not run": "slow"}, AssertionError),
    "unknown command": ("bash", "rm -r data", {"not run": "slow"}, AssertionError),
    "unknown language": ("ruby", "1", {}, AssertionError),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_fails(case, session):
    language, text, marks, error = WRONG[case]
    with pytest.raises(error):
        session.run(Block(ROOT / "README.md", 1, language, None, text, marks))


def test_other_output_fails(session):
    def block(language: str, text: str, **marks: str) -> Block:
        return Block(ROOT / "README.md", 1, language, None, text, marks)

    session.run(block("python", "print(1)"))
    session.run(block("text", "1\n", output=""))
    with pytest.raises(AssertionError):
        session.run(block("text", "2\n", output=""))
