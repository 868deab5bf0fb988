"""Commands of the documentation, checked but not run: bash expands them, and each tool parses its arguments."""

import argparse
import re
import runpy
import subprocess
import sys
from functools import cache
from importlib.util import find_spec

import pytest
from mmengine.config import Config
from packaging.requirements import Requirement

from .pages import ROOT
from .project import project

#: the tool behind each launch script, and the positions of that tool's arguments among the script's
LAUNCHERS = {
    "tools/dist_train.sh": ("tools/train.py", (0,), 2),
    "tools/dist_test.sh": ("tools/test.py", (0, 1), 3),
    "tools/slurm_train.sh": ("tools/train.py", (2,), 3),
}
# Bash expands variables, braces and line ends; the commands only write down their arguments. Others are not found.
RECORD = r"""
set -eu
record() { printf '%s\x1f' "$@" >&3; printf '\x1e' >&3; }
for name in python pip mim make bash git cd; do eval "$name() { record $name \"\$@\"; }"; done
PATH=/nonexistent
exec 3>&1 >&2
"""


class _Parsed(Exception):
    """Ends a tool once its arguments are parsed."""


def commands_of(text: str) -> list[list[str]]:
    """The commands in a bash block, each with its arguments; none is run."""
    done = subprocess.run(["/bin/bash", "-c", RECORD + text], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [command.split("\x1f")[:-1] for command in done.stdout.split("\x1e")[:-1]]


def check(command: list[str]) -> None:
    """Check that what a command names is there and takes these arguments."""
    name, arguments = command[0], command[1:]
    if name == "python" and arguments[0] == "-m":
        assert find_spec(arguments[1]), arguments[1]
    elif name == "python" and arguments[0] == "-c":
        compile(arguments[1], "command", "exec")
    elif name == "python":
        check_tool(arguments[0], arguments[1:])
    elif name == "bash":
        tool, positions, first_flag = LAUNCHERS[arguments[0]]
        check_tool(tool, [*(arguments[1:][i] for i in positions), *arguments[1 + first_flag :]])
    elif name == "make":
        done = subprocess.run(["make", "-n", *arguments], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    elif command[:2] == ["git", "clone"] or name == "cd":
        assert arguments[-1] == "acon_mm", arguments
    elif name in ("pip", "mim") and arguments[0] == "install":
        check_install(arguments[1:])
    else:
        pytest.fail(f"no check knows the command {name}")


def check_tool(script: str, arguments: list[str]) -> None:
    parsed = parse(script, arguments)
    if config := getattr(parsed, "config", None):
        cfg = Config.fromfile(config)
        cfg.merge_from_dict(getattr(parsed, "cfg_options", None) or {})


def parse(script: str, arguments: list[str]) -> argparse.Namespace:
    """The arguments of a tool as it parses them itself."""
    parse_args = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser, *args):
        raise _Parsed(parse_args(parser, *args))

    return _start(script, arguments, parse_and_stop)


@cache
def tool_flags() -> set[str]:
    """All flags of all tools."""

    def stop(parser, *args):
        raise _Parsed(parser)

    tools = [path for path in sorted((ROOT / "tools").rglob("*.py")) if "__main__" in path.read_text()]
    assert tools
    return {flag for tool in tools for flag in _flags(_start(str(tool), [], stop))}


def _flags(parser: argparse.ArgumentParser) -> set[str]:
    flags = set()
    for action in parser._actions:
        flags.update(action.option_strings)
        if isinstance(action, argparse._SubParsersAction):
            flags.update(flag for each in action.choices.values() for flag in _flags(each))
    return flags


def _start(script: str, arguments: list[str], parse_args):
    """Start a tool with another ``parse_args``; what that raises in :class:`_Parsed`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
        patch.setattr(sys, "argv", [script, *arguments])
        try:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        except _Parsed as end:
            return end.args[0]
    return pytest.fail(f"{script} parses no arguments")


def check_install(arguments: list[str]) -> None:
    """Requirements are well formed; extras of this package are in pyproject.toml."""
    extras = project()["optional-dependencies"]
    skip = False
    for argument in arguments:
        if skip or argument.startswith("-"):
            skip = argument in ("--index-url", "-f")
        elif local := re.fullmatch(r"\.(?:\[(.+)\])?", argument):
            assert not {*(local[1] or "").split(",")} - {"", *extras}, argument
        elif not argument.endswith(".whl"):
            Requirement(argument)
