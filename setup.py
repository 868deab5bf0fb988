"""Build script: the metadata is in pyproject.toml; this adds the compiled kernels, and configs and tools to the wheel.

Configs and tools go where OpenMMLab's packages keep theirs, ``acon_mm/.mim/configs`` and ``acon_mm/.mim/tools``.

The kernels (``acon_mm/ops/csrc``) are compiled where PyTorch and a C++ compiler are there, into a library that is
named after PyTorch's version, since it fits no other. Without it the package works as well, in plain PyTorch. The
environment variable ``ACON_MM_KERNELS=0`` leaves them out, ``ACON_MM_KERNELS=1`` makes it an error if they do not
compile.
"""

import os
import platform
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
CSRC = Path("acon_mm", "ops", "csrc")
WANTED = os.environ.get("ACON_MM_KERNELS", "auto")
if WANTED not in ("auto", "0", "1"):
    raise SystemExit(f"ACON_MM_KERNELS must be 0 (none), 1 (required) or unset, got {WANTED!r}")

# The instruction sets that a build holds side by side, one of which is chosen at run time.
INSTRUCTION_SETS = {"baseline_table": []}
if platform.machine().lower() in ("x86_64", "amd64"):
    INSTRUCTION_SETS |= {
        "avx2_table": ["-march=x86-64-v3"],
        "avx512_table": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
    }

# GCC warns of its own headers, and of vectors in signatures, none of which leaves its file.
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
    """Arguments of ``setup`` that build the kernels; none where that is not wanted or cannot be."""
    if WANTED == "0":
        return {}
    try:
        import torch
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except ImportError as error:
        if WANTED == "1":
            raise SystemExit(f"the kernels compile against PyTorch, which does not import here ({error})") from error
        return {}

    class BuildKernels(BuildExtension):
        """Compiles kernels.cpp once per instruction set, then the rest as PyTorch's extensions compile."""

        def build_extension(self, extension) -> None:
            extension.extra_objects = []
            for table, flags in INSTRUCTION_SETS.items():
                extension.extra_objects += self.compiler.compile(
                    [str(CSRC / "kernels.cpp")],
                    output_dir=str(Path(self.build_temp, table)),
                    macros=[("ACON_TABLE", table)],
                    extra_preargs=["-std=c++17", "-O3", "-fPIC", *QUIET, *flags],
                    depends=[str(path) for path in CSRC.glob("*.h")],
                )
            super().build_extension(extension)

    version = "_".join(torch.__version__.split("+")[0].split(".")[:2])
    extension = CppExtension(
        f"acon_mm.ops._cpu_torch{version}",
        [str(CSRC / name) for name in ("ops.cpp", "meta_ops.cpp", "cpu.cpp", "cpu_generator.cpp")],
        define_macros=[("ACON_X86", None)] if len(INSTRUCTION_SETS) > 1 else [],
        extra_compile_args=["-O3", "-fopenmp", "-g0"],
        extra_link_args=["-fopenmp"],
        depends=[str(path) for path in CSRC.glob("*")],
        optional=WANTED != "1",
    )
    return {"ext_modules": [extension], "cmdclass": {"build_ext": BuildKernels.with_options(use_ninja=False)}}


arguments = kernels()
arguments["cmdclass"] = {"build_py": BuildWithConfigsAndTools} | arguments.get("cmdclass", {})
setup(**arguments)
