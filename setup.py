"""Build script: compiles the kernels, and adds configs and tools to the wheel. The metadata is in pyproject.toml.

Configs and tools are copied to ``acon_mm/.mim/configs`` and ``acon_mm/.mim/tools``, as in OpenMMLab's packages.

The kernels (``acon_mm/ops/csrc``) are compiled if PyTorch and a C++ compiler are installed. The name of the library
contains the version of PyTorch, since it works with no other version. Without the library, the package uses plain
PyTorch operators. So it is on Windows: the kernels are written for GCC and Clang. With the environment variable
``ACON_MM_KERNELS=0``, the kernels are not compiled. With ``ACON_MM_KERNELS=1``, it is an error if they do not compile.

PyTorch is no requirement of the build, which would bring another version than the installed one. pip hides the packages
of the environment from a build, so this script looks for PyTorch there itself.
"""

import os
import platform
import shutil
import site
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.errors import CompileError

ROOT = Path(__file__).parent
CSRC = Path("acon_mm", "ops", "csrc")
WANTED = os.environ.get("ACON_MM_KERNELS", "auto")
if WANTED not in ("auto", "0", "1"):
    raise SystemExit(f"ACON_MM_KERNELS must be 0 (none), 1 (required) or unset, got {WANTED!r}")

# The library contains kernels for each instruction set. It chooses one at run time, by the conditions of PyTorch's own
# kernels. So these are the instructions that PyTorch tests for, and none of the others that x86-64-v3 and v4 have.
INSTRUCTION_SETS: dict[str, list[str]] = {"baseline": []}
if platform.machine().lower() in ("x86_64", "amd64"):
    avx2 = ["-mavx2", "-mfma", "-mf16c"]
    avx512 = [*avx2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mprefer-vector-width=512"]
    INSTRUCTION_SETS |= {"avx2": avx2, "avx512": avx512}

# GCC warns about its own headers, and about vectors in signatures. No such function is called from another file.
QUIET = ["-Wno-psabi", "-Wno-uninitialized", "-Wno-maybe-uninitialized"]


class BuildWithConfigsAndTools(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for name in ("configs", "tools"):
                target = Path(self.build_lib, "acon_mm", ".mim", name)
                shutil.rmtree(target, ignore_errors=True)
                shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"))


def kernels() -> dict:
    """The arguments of ``setup`` that compile the kernels. None if they shall not or cannot be compiled."""
    metadata_alone = {"egg_info", "dist_info"} & {*sys.argv}  # PyTorch takes seconds to import
    if WANTED == "0" or metadata_alone or (sys.platform == "win32" and WANTED != "1"):
        return {}
    if find_spec("torch") is None:
        sys.path += [*site.getsitepackages(), site.getusersitepackages()]
    try:
        import torch
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except ImportError as error:
        if WANTED == "1":
            raise SystemExit(
                f"the kernels need PyTorch, which cannot be imported ({error}): install it, or unset ACON_MM_KERNELS"
            ) from error
        return {}

    class BuildKernels(BuildExtension):
        """Compiles kernels.cpp once for each instruction set that the compiler knows, and the other files as one.

        One by one, each would read PyTorch's headers again, which takes most of the time.
        """

        def build_extensions(self) -> None:
            try:
                super().build_extensions()
            except subprocess.CalledProcessError as error:  # PyTorch 2.0 looks for the compiler with `which`
                if WANTED == "1":
                    raise
                self.warn(f"the kernels are not compiled: {error}")

        def build_extension(self, extension) -> None:
            if self.knows(["-fopenmp"]):  # Apple's Clang does not: the kernels have one thread there
                extension.extra_compile_args.append("-fopenmp")
                extension.extra_link_args.append("-fopenmp")
            names = [name for name, flags in INSTRUCTION_SETS.items() if self.knows(flags)]
            extension.define_macros += [(f"ACON_{name.upper()}", None) for name in names]
            with ThreadPoolExecutor() as pool:
                extension.extra_objects = [path for paths in pool.map(self.kernels_for, names) for path in paths]
            together = Path(self.build_temp, "library.cpp")
            together.write_text("".join(f'#include "{Path(path).resolve()}"\n' for path in extension.sources))
            extension.sources = [str(together)]
            super().build_extension(extension)

        def kernels_for(self, name: str) -> list[str]:
            return self.compiler.compile(
                [str(CSRC / "kernels.cpp")],
                output_dir=str(Path(self.build_temp, name)),
                macros=[("ACON_TABLE", f"{name}_table")],
                extra_preargs=["-std=c++17", "-O3", "-fPIC", *QUIET, *INSTRUCTION_SETS[name]],
                extra_postargs=["-g0"],
                depends=[str(path) for path in CSRC.glob("*.h")],
            )

        def knows(self, flags: list[str]) -> bool:
            """Whether the compiler takes the flags."""
            empty = Path(self.build_temp, "empty.cpp")
            empty.parent.mkdir(parents=True, exist_ok=True)
            empty.touch()
            try:
                self.compiler.compile([str(empty)], output_dir=self.build_temp, extra_preargs=flags)
            except CompileError:
                return False
            return True

    version = "_".join(torch.__version__.split("+")[0].split(".")[:2])
    extension = CppExtension(
        f"acon_mm.ops._cpu_torch{version}",
        [str(path) for path in sorted(CSRC.glob("*.cpp")) if path.name != "kernels.cpp"],
        extra_compile_args=["-O3", "-g0"],
        depends=[str(path) for path in CSRC.glob("*")],
        optional=WANTED != "1",
    )
    return {"ext_modules": [extension], "cmdclass": {"build_ext": BuildKernels.with_options(use_ninja=False)}}


arguments = kernels()
arguments["cmdclass"] = {"build_py": BuildWithConfigsAndTools} | arguments.get("cmdclass", {})
setup(**arguments)
