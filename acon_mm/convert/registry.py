"""``act_cfg`` and ``act_sites`` for every module that is built from a config.

The build function of every ``MODELS`` registry is wrapped. A config without ``act_cfg`` is built as before. With it, a
class that takes ``act_cfg`` gets it. Any other class is built without it, and the module is converted afterwards.
With ``act_sites`` the module is always converted.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from typing import Any

from mmengine.logging import print_log
from mmengine.model import Sequential
from mmengine.registry import Registry
from torch import nn

from ..layers import Acon
from .convert import check_act_cfg, complete_channels, convert_remaining_activations
from .hosts import host_of

#: how many build functions are running, one inside another; each thread counts its own
_depth: ContextVar[int] = ContextVar("acon_mm_depth", default=0)


def with_act_cfg(build: Callable, after_build: Callable[[nn.Module], None], is_active: Callable[[], bool]) -> Callable:
    """Wrap a registry's build function, so that it takes ``act_cfg`` and ``act_sites`` for every module.

    Args:
        build: the build function.
        after_build: called with each complete module, but not with the parts that are built inside of it.
        is_active: whether to do anything. Another package may have wrapped the new function, and still has it after
            :func:`acon_mm.patches.uninstall`.
    """

    @wraps(build)
    def build_with_activations(cfg: Any, *args: Any, registry: Registry, **kwargs: Any) -> Any:
        if not is_active():
            return build(cfg, *args, registry=registry, **kwargs)
        depth = _depth.get()
        _depth.set(depth + 1)
        try:
            if _has_act_cfg(cfg):
                built = _build(build, cfg, *args, registry=registry, **kwargs)
            elif isinstance(cfg, list) and any(map(_has_act_cfg, cfg)):  # mmengine would build a Sequential of them
                parts = (build_with_activations(each, *args, registry=registry, **kwargs) for each in cfg)
                built = Sequential(*parts)
            else:
                built = build(cfg, *args, registry=registry, **kwargs)
        finally:
            _depth.set(depth)
        if depth == 0:
            _check_channels(built)
            if isinstance(built, nn.Module):
                after_build(built)
        return built

    wrapper: Any = build_with_activations
    wrapper._acon_mm_original = build
    return wrapper


def original_build(build: Callable) -> Callable:
    """The build function that :func:`with_act_cfg` was given; any other function is returned as it is."""
    return getattr(build, "_acon_mm_original", build)


def _has_act_cfg(cfg: Any) -> bool:
    return isinstance(cfg, dict) and "type" in cfg and ("act_cfg" in cfg or "act_sites" in cfg)


def _build(build: Callable, cfg: dict, *args: Any, registry: Registry, **kwargs: Any) -> Any:
    cls = _class_of(cfg, registry)
    if cls is None:
        return build(cfg, *args, registry=registry, **kwargs)  # an unknown type: the registry raises its own error
    where = cls.__name__
    act_cfg, act_sites = cfg.get("act_cfg"), cfg.get("act_sites")
    if act_sites is not None and act_cfg is None:
        raise ValueError(f"act_sites={act_sites!r} of {where} needs an act_cfg as well: add it, or leave act_sites out")
    own_act_cfg = takes_act_cfg(cls)
    if act_cfg is None:  # a child config takes back the act_cfg of its base
        left_out = {"act_sites"} if own_act_cfg else {"act_sites", "act_cfg"}
        return build({k: v for k, v in cfg.items() if k not in left_out}, *args, registry=registry, **kwargs)
    check_act_cfg(act_cfg, where, registry)
    left_out = {"act_sites"} if own_act_cfg and act_sites in (None, "all") else {"act_sites", "act_cfg"}
    module = build({k: v for k, v in cfg.items() if k not in left_out}, *args, registry=registry, **kwargs)
    if own_act_cfg and act_sites is None and not (isinstance(module, nn.Module) and _is_acon(act_cfg, registry)):
        return module  # built as it would be without acon_mm
    if not isinstance(module, nn.Module):
        raise ValueError(f"{where} is not an nn.Module, so act_cfg cannot be used: remove it")
    report = convert_remaining_activations(module, act_cfg, "all" if own_act_cfg and act_sites is None else act_sites)
    total = len(report.converted) + len(report.kept)
    print_log(f"act_cfg of {where}: {act_cfg['type']} at {len(report.converted)} of {total} activations", "current")
    return module


def _is_acon(act_cfg: dict, registry: Registry) -> bool:
    cls = act_cfg["type"] if inspect.isclass(act_cfg["type"]) else registry.get(act_cfg["type"])
    return inspect.isclass(cls) and issubclass(cls, Acon)


def _class_of(cfg: dict, registry: Registry) -> Callable | None:
    if not isinstance(cfg["type"], str):
        return cfg["type"]
    with registry.switch_scope_and_registry(cfg.get("_scope_")) as scoped:
        return scoped.get(cfg["type"])


def takes_act_cfg(cls: Callable) -> bool:
    """Whether a class takes ``act_cfg``, itself or by ``**kwargs`` that it passes to a base that takes it."""
    host = host_of(cls) if inspect.isclass(cls) else None
    if host is not None and not host.takes_act_cfg:
        return False
    inits = [c.__dict__["__init__"] for c in cls.__mro__ if "__init__" in c.__dict__] if inspect.isclass(cls) else [cls]
    for init in inits:
        parameters = inspect.signature(init).parameters
        if "act_cfg" in parameters:
            return True
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return False
    return False


def _check_channels(built: Any) -> None:
    """Raise a ValueError that names the ACONs of a complete model that do not know their channels."""
    if not isinstance(built, nn.Module) or isinstance(built, Acon):
        return
    if not any(isinstance(module, Acon) and module.num_channels is None for module in built.modules()):
        return
    missing = complete_channels(built)
    if missing:
        reasons = "; ".join(f"{name} ({reason})" for name, reason in missing.items())
        raise ValueError(
            f"{type(built).__name__} has ACONs that do not know their number of channels, because neither the layers "
            f"before them nor a run show it: {reasons}. Add num_channels to their act_cfg, or leave act_cfg out there"
        )
