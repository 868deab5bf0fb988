"""The command ``acon-mm``: it starts a tool of ``tools/``, which an installed package has in ``acon_mm/.mim/tools``.

It is a module of its own, because ``import acon_mm`` imports PyTorch and OpenMMLab's packages: the list of commands is
there at once, and `acon-mm check-device` works without those packages.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import NoReturn

COMMANDS = {
    "train": "train.py",
    "test": "test.py",
    "compare": "analysis_tools/compare.py",
    "show": "analysis_tools/show_activations.py",
    "explain": "analysis_tools/explain.py",
    "convert": "model_converters/convert_checkpoint.py",
    "export": "deployment/export_onnx.py",
    "check-device": "analysis_tools/check_device.py",
    "coverage": "analysis_tools/config_coverage.py",
    "benchmark": "analysis_tools/benchmark.py",
}


def tool(command: str) -> Path:
    """The file of a command, in the installed package or, of an editable installation, in its checkout."""
    spec = find_spec("acon_mm")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("error: acon_mm is not installed in the Python of this command: pip install acon_mm")
    package = Path(next(iter(spec.submodule_search_locations)))
    installed = package / ".mim" / "tools"
    return (installed if installed.is_dir() else package.parent / "tools") / COMMANDS[command]


def start(command: str, arguments: Sequence[str]) -> None:
    """Run a tool as ``python tools/....py ARGUMENTS`` does; its help calls it ``acon-mm COMMAND``."""
    file = tool(command)
    main_before, program = sys.modules["__main__"], ModuleType("__main__")
    program.__file__ = str(file)
    # Workers that a tool starts import what is __main__ here. runpy would make the file's name that of the program.
    sys.modules["__main__"], sys.argv = program, [f"acon-mm {command}", *arguments]
    try:
        exec(compile(file.read_text(encoding="utf-8"), file, "exec"), program.__dict__)
    finally:
        sys.modules["__main__"] = main_before


def parser(with_arguments: bool = False) -> argparse.ArgumentParser:
    """The parser of ``acon-mm``: the names of the commands alone, or their arguments as well."""
    found = argparse.ArgumentParser(
        prog="acon-mm",
        description="ACON activations for OpenMMLab's detectors and segmentors. Each command is a tool of tools/.",
        epilog="example: acon-mm explain CONFIG; `acon-mm COMMAND --help` has the arguments and an example of each",
    )
    commands = found.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        text = ast.get_docstring(ast.parse(tool(name).read_text(encoding="utf-8"))) or ""
        parents = [_with_files(_parser_of(name))] if with_arguments else []
        commands.add_parser(name, help=text.splitlines()[0], parents=parents, add_help=False)
    completion = commands.add_parser(
        "completion", help="Print the completion of a shell; it needs `pip install shtab`."
    )
    completion.add_argument("shell", choices=["bash", "zsh", "tcsh"])
    return found


def complete(shell: str) -> None:
    """Print the script that completes commands, flags, choices and files in a shell."""
    try:
        import shtab
    except ImportError:
        raise SystemExit("error: completion needs a package more: pip install shtab") from None
    print(shtab.complete(parser(with_arguments=True), shell))


class _Parsed(Exception):
    """Carries the parser out of a tool that is about to parse."""


def _parser_of(command: str) -> argparse.ArgumentParser:
    def stop(parser: argparse.ArgumentParser, *args: object) -> NoReturn:
        raise _Parsed(parser)

    parse_args = argparse.ArgumentParser.parse_args
    argparse.ArgumentParser.parse_args = stop  # type: ignore[assignment, method-assign]
    try:
        start(command, [])
    except _Parsed as end:
        return end.args[0]
    finally:
        argparse.ArgumentParser.parse_args = parse_args  # type: ignore[method-assign]
    raise AssertionError(f"acon-mm {command} parses no arguments")


def _with_files(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The same parser; what takes any text is completed as a file."""
    import shtab

    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                _with_files(each)
        elif action.nargs != 0 and action.choices is None and action.type in (None, Path):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments and arguments[0] in COMMANDS:
        start(arguments[0], arguments[1:])
    else:
        complete(parser().parse_args(arguments).shell)


if __name__ == "__main__":
    main()
