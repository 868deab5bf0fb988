"""What acon_mm stands on, checked before anything of it is imported."""

from importlib import import_module

_INSTALL = "pip install 'acon_mm[openmmlab]' (or [onedl]; README, section Install, says what mmcv needs beforehand)"
# torch.load reads with weights_only=True by default, and takes an allow-list, since this one.
_MIN_TORCH = (2, 6)


def check() -> None:
    """Raise an ImportError that says what to install, where a part is missing, too old or does not import."""
    for package in ("torch", "mmengine", "mmcv"):
        _import(package)
    torch_version = import_module("torch").__version__
    if tuple(int(part) for part in torch_version.split(".")[:2]) < _MIN_TORCH:
        raise ImportError(
            f"acon_mm needs torch >= 2.6 to read checkpoints safely, and {torch_version} is installed: {_INSTALL}"
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
    except Exception as error:  # mm packages assert the versions of each other
        raise ImportError(f"acon_mm: {package} is installed but does not import ({error}): {_INSTALL}") from error
