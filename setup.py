"""Build script: the metadata is in pyproject.toml; this adds configs and tools to the wheel.

They go where OpenMMLab's packages keep theirs, ``acon_mm/.mim/configs`` and ``acon_mm/.mim/tools``.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


class BuildWithConfigsAndTools(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for name in ("configs", "tools"):
                target = Path(self.build_lib, "acon_mm", ".mim", name)
                shutil.rmtree(target, ignore_errors=True)
                shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"))


setup(cmdclass={"build_py": BuildWithConfigsAndTools})
