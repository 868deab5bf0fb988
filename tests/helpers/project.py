"""What pyproject.toml says."""

from __future__ import annotations

from typing import Any

from .pages import ROOT

try:
    import tomllib
except ModuleNotFoundError:  # before Python 3.11; pytest brings the package that it was made from
    import tomli as tomllib


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
