"""What developers run: the Makefile, the check of a merge, the pre-commit hooks."""

import re
import subprocess
from pathlib import Path

import yaml

from helpers.project import project

ROOT = Path(__file__).parents[1]


def test_make_help_lists_every_target():
    makefile = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: (.*)", makefile, re.MULTILINE)
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = re.findall(r"^make (\S+) +\S", done.stdout, re.MULTILINE)
    assert set(listed) == set(phony.split()) and len(listed) == len(set(listed))


def test_a_merge_runs_the_command_of_the_readme():
    commands = [line for line in (ROOT / ".ci/run").read_text().splitlines() if line.startswith("make ")]
    assert commands == ["make test"]
    assert "make test" in (ROOT / "README.md").read_text()


def test_pre_commit_has_the_ruff_of_the_tests():
    (repo,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    extras = project()["optional-dependencies"]
    assert repo["rev"].replace("v", "ruff==") in extras["tests"]
    assert [hook["id"] for hook in repo["hooks"]] == ["ruff-check", "ruff-format"]
