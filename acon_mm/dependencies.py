"""The check of the packages that acon_mm needs, before its other modules are imported."""

from importlib import import_module

_INSTALL = "pip install 'acon_mm[openmmlab]' (or [onedl]; for what mmcv needs before, see Install in the README)"
_MIN_TORCH = (2, 0)


def check() -> None:
    """Raise an ImportError that says what to install, if a package is missing, too old, or cannot be imported."""
    for package in ("torch", "mmengine", "mmcv"):
        _import(package)
    torch_version = import_module("torch").__version__
    if tuple(int(part) for part in torch_version.split(".")[:2]) < _MIN_TORCH:
        raise ImportError(
            f"acon_mm needs torch >= {'.'.join(map(str, _MIN_TORCH))}, and {torch_version} is installed: {_INSTALL}"
        )
    for package in ("mmdet", "mmseg"):
        _import(package, optional=True)


def _import(package: str, optional: bool = False) -> None:
    try:
        import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise ImportError(f"acon_mm: {package} needs {error.name}, which is not installed: {_INSTALL}") from error
        if not optional:
            raise ImportError(f"acon_mm needs {package}, which is not installed: {_INSTALL}") from error
    except Exception as error:  # OpenMMLab's packages check each other's versions
        raise ImportError(f"acon_mm: {package} is installed but cannot be imported ({error}): {_INSTALL}") from error
