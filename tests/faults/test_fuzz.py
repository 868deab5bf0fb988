"""Random inputs to the operators, on each implementation that runs here, against float64."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from acon_mm.ops import cpu
from helpers.tiny_runs import TOOLS


@pytest.mark.parametrize(("backend", "count"), [("compiled", 10_000), ("reference", 10_000), ("triton", 300)])
def test_random_inputs(backend, count, tally):
    """Triton's interpreter takes a tenth of a second for each call, hence fewer of them."""
    if backend == "compiled" and cpu.problem():
        pytest.skip(cpu.problem())
    if backend == "triton" and not find_spec("triton"):
        pytest.skip("triton is not installed")
    env = os.environ | {"ACON_MM_BACKEND": backend, "PYTHONPATH": f"{TOOLS.parent}:{TOOLS.parent / 'tests'}"}
    command = [sys.executable, "-m", "helpers.fuzz", backend, str(count)]
    done = subprocess.run(command, env=env, cwd=TOOLS.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    lines = done.stdout.splitlines()
    for _ in range(int(lines[-1])):
        tally("survived")
    for line in lines[:-1]:
        tally("lost", line)
