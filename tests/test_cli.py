"""The command `acon-mm`: what it lists, starts and completes."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import acon_mm_cli as cli
from helpers.tiny_runs import load_tool

ROOT = Path(__file__).parents[1]
DIGITS = "configs/detection/retinanet_r18-aconc_fpn_6e_digits.py"


def run(*arguments: str, code: str = "import acon_mm_cli; acon_mm_cli.main()") -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def example_of(command: str, capsys: pytest.CaptureFixture) -> list[str]:
    """The arguments of the example in the help of a command."""
    with pytest.raises(SystemExit) as end:
        cli.main([command, "--help"])
    assert not end.value.code
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith(f"usage: acon-mm {command} ")
    program, _, arguments = text.partition(" example: ")[2].partition(f"acon-mm {command} ")
    assert program == "" and arguments
    return shlex.split(arguments)


@pytest.fixture(autouse=True)
def argv(monkeypatch):
    """A command leaves sys.argv as its tool wants it."""
    monkeypatch.setattr(sys, "argv", ["acon-mm"])


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_the_example_in_a_help_is_one_that_the_command_takes(command, capsys):
    example = example_of(command, capsys)
    cli._parser_of(command).parse_args(example)
    assert all((ROOT / each).exists() for each in example if each.startswith("configs/"))


def test_the_list_of_commands_comes_without_pytorch():
    done = run(
        "--help", code="import sys, acon_mm_cli\ntry: acon_mm_cli.main()\nfinally: assert 'torch' not in sys.modules"
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for command in [*cli.COMMANDS, "completion"]:
        assert any(line.split()[:1] == [command] for line in lines), command
    assert "Train a detector (mmdet config) or a segmentor (mmseg config)." in done.stdout


@pytest.mark.slow
def test_a_command_is_its_tool(capsys):
    arguments = [str(ROOT / DIGITS), "--shape", "64", "64"]
    load_tool("analysis_tools/explain").main(arguments)
    expected = capsys.readouterr().out
    cli.main(["explain", *arguments])
    assert capsys.readouterr().out == expected != ""


@pytest.mark.slow
def test_an_error_of_a_command_ends_its_process():
    done = run("explain", "missing.py")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: cannot read config missing.py: no such file\n"


def test_an_unknown_command_is_an_error_that_names_it(capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["trian"])
    assert "invalid choice: 'trian'" in capsys.readouterr().err


def test_completion_of_bash(capsys, tmp_path):
    script = tmp_path / "completion.bash"
    cli.main(["completion", "bash"])
    script.write_text(capsys.readouterr().out)
    (tmp_path / "net.pth").touch()

    def completed(*words: str) -> set[str]:
        line = shlex.join(words)
        code = f"""source {script}
COMP_WORDS=({line}) COMP_CWORD={len(words) - 1} COMP_LINE='{line}' COMP_POINT={len(line)}
$(complete -p acon-mm | sed 's/.*-F \\([^ ]*\\) .*/\\1/') acon-mm '{words[-1]}'
printf '%s\\n' "${{COMPREPLY[@]}}" """
        done = subprocess.run(["bash", "-c", code], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return {each.strip() for each in done.stdout.split()}

    assert completed("acon-mm", "tr") == {"train"}
    assert completed("acon-mm", "train", "--au") == {"--auto-scale-lr"}
    assert completed("acon-mm", "train", "c.py", "--launcher", "py") == {"pytorch"}
    assert "net.pth" in completed("acon-mm", "test", "c.py", "ne")


def test_completion_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(SystemExit, match="pip install shtab"):
        cli.main(["completion", "zsh"])
