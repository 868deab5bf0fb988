"""Install the mmcv of a stack: a prebuilt wheel where pip finds one that fits, otherwise compiled, with progress.

    python .dev_scripts/install_mmcv.py openmmlab

The argument is an extra of pyproject.toml; acon_mm and torch are installed already. pip looks where it always does: its
cache, its index, and the places that PIP_FIND_LINKS and PIP_EXTRA_INDEX_URL name. A wheel that was compiled for another
torch does not load; mmcv is compiled then.

Compiled for a CPU, most of the time goes into PyTorch's headers and into debug information. So there is no debug
information (-g0), and GCC reads the headers precompiled. mmcv asks for C++17; where PyTorch's headers need a later
standard, it gets that one. All of these are flags; mmcv's source and its optimization stay.
"""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

PIP_INSTALL = [
    sys.executable,
    "-m",
    "pip",
    "--disable-pip-version-check",
    "install",
    "--no-build-isolation",
    "--no-deps",
]
LOAD = """
import ctypes, importlib.util, pathlib, torch
for path in pathlib.Path(importlib.util.find_spec("mmcv").origin).parent.glob("_ext.*"):
    ctypes.CDLL(str(path))
    print(path)
"""
# What setuptools compiles with, less the sources: a precompiled header serves the same flags only.
FLAGS = """
import shlex, setuptools
from distutils.ccompiler import new_compiler
from distutils.sysconfig import customize_compiler
from torch.utils.cpp_extension import include_paths
compiler = new_compiler()
customize_compiler(compiler)
print(shlex.join(compiler.compiler_so[1:] + ["-I" + path for path in include_paths()]))
"""


def requirement(stack: str) -> Requirement:
    """The mmcv of an extra, as pyproject.toml pins it."""
    for line in metadata.requires("acon_mm") or []:
        found = Requirement(line)
        if found.name.endswith("mmcv") and found.marker and found.marker.evaluate({"extra": stack}):
            found.marker = None
            return found
    raise SystemExit(f"error: no extra {stack} of acon_mm has mmcv")


def is_installed(wanted: Requirement) -> bool:
    """Whether this version is installed, and its operators load with the installed torch."""
    try:
        if metadata.version(wanted.name) not in wanted.specifier:
            return False
    except metadata.PackageNotFoundError:
        return False
    done = subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True)
    return done.returncode == 0 and bool(done.stdout)


def compiler_for_torch(directory: Path) -> str:
    """The C++ compiler, with the standard that PyTorch's headers ask for: of two, a compiler takes the last one."""
    compiler = os.environ.get("CXX", "c++")
    torch = Path(importlib.util.find_spec("torch").origin).parent
    needed = re.search(r"C\+\+(\d\d) or later", (torch / "include/torch/csrc/api/include/torch/all.h").read_text())
    if os.name == "nt" or not needed or needed[1] == "17":
        return compiler
    script = directory / "c++"
    script.write_text(f'#!/bin/sh\nexec {compiler} "$@" -std=c++{needed[1]}\n')
    script.chmod(0o755)
    return str(script)


def precompile(header: Path, environment: dict[str, str]) -> None:
    """Precompile the header for GCC with the flags of setuptools. Where this fails, the compilation is only slower."""
    compiler = shlex.split(environment["CXX"])
    if not shutil.which(compiler[0]):
        return
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True).stdout
    if "Free Software Foundation" not in version:
        return  # Clang stops at a precompiled header that does not fit; GCC ignores it
    flags = subprocess.run([sys.executable, "-c", FLAGS], env=environment, capture_output=True, text=True).stdout
    part = header.with_suffix(".part")
    command = [*compiler, *shlex.split(flags), "-std=c++17", "-w", "-x", "c++-header", header, "-o", part]
    if subprocess.run(command, capture_output=True).returncode == 0:
        part.rename(f"{header}.gch")  # at once: pip is compiling already


def install(wanted: Requirement, *options: str) -> None:
    """Let pip install it. Of a compilation, print each file and an estimate of the time that is left."""
    lines, times = [], []
    with tempfile.TemporaryDirectory() as directory:
        header = Path(directory, "torch_types.h")
        header.write_text("#include <torch/types.h>\n")
        environment = {
            **os.environ,
            "CXX": compiler_for_torch(Path(directory)),
            "CFLAGS": f"{os.environ.get('CFLAGS', '')} -g0 -include {header}",
        }
        command = [*PIP_INSTALL, "--verbose", *options, str(wanted)]
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
        with subprocess.Popen(command, env=environment, **output) as pip:
            for line in pip.stdout:
                lines.append(line)
                if "building 'mmcv._ext' extension" in line:
                    print("Compiling mmcv", flush=True)
                    times.append(time.monotonic())
                    threading.Thread(target=precompile, args=(header, environment)).start()
                if step := re.search(r"\[(\d+)/(\d+)\].* -c (\S+)", line):  # of ninja, at the end of each file
                    times = [*times[-10:], time.monotonic()]  # the first files take longer: their headers come as text
                    left = (times[-1] - times[0]) / (len(times) - 1) * (int(step[2]) - int(step[1]))
                    print(f"[{step[1]}/{step[2]}] {Path(step[3]).name}, about {left / 60:.1f} minutes left", flush=True)
    if pip.returncode:
        print(*lines[-60:], sep="", file=sys.stderr)
        raise SystemExit(f"error: pip could not install {wanted}: see above")


def main() -> None:
    wanted = requirement(sys.argv[1])
    if is_installed(wanted):
        return
    print(f"Installing {wanted}: prebuilt where pip finds it, else compiled", flush=True)
    install(wanted)
    if not is_installed(wanted):
        print(f"The wheel of {wanted} does not fit the installed torch: compiling it", flush=True)
        install(wanted, "--force-reinstall", "--no-cache-dir", f"--no-binary={wanted.name}")
        if not is_installed(wanted):
            raise SystemExit(f"error: {wanted} was compiled, but does not load: python -c 'import torch, mmcv._ext'")


if __name__ == "__main__":
    main()
