"""``act_cfg`` and ``act_sites`` on any module that a config builds.

The build function of every ``MODELS`` registry is wrapped. A config without ``act_cfg`` passes through untouched; with
it, a class that takes ``act_cfg`` itself gets it, and any other is built without it and converted afterwards.
``act_sites`` always means the conversion.
"""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

from mmengine.logging import print_log
from mmengine.model import Sequential
from mmengine.registry import Registry
from torch import nn

from ..layers import Acon
from .convert import check_act_cfg, complete_activations
from .hosts import host_of_class

_depth = 0


def with_act_cfg(build: Callable, after_build: Callable[[nn.Module], None]) -> Callable:
    """A registry's build function that takes ``act_cfg`` and ``act_sites`` for every module.

    Args:
        build: the build function.
        after_build: called with each module that is built as a whole, not as a part of another.
    """

    @wraps(build)
    def build_with_activations(cfg: Any, *args, registry: Registry, **kwargs) -> Any:
        global _depth
        _depth += 1
        try:
            if _asks(cfg):
                built = _build(build, cfg, *args, registry=registry, **kwargs)
            elif isinstance(cfg, list) and any(map(_asks, cfg)):  # which mmengine builds into a Sequential by itself
                parts = (build_with_activations(each, *args, registry=registry, **kwargs) for each in cfg)
                built = Sequential(*parts)
            else:
                built = build(cfg, *args, registry=registry, **kwargs)
        finally:
            _depth -= 1
        if _depth == 0:
            _check_channels(built)
            if isinstance(built, nn.Module):
                after_build(built)
        return built

    build_with_activations._acon_mm_original = build
    return build_with_activations


def original_build(build: Callable) -> Callable:
    """The build function that :func:`with_act_cfg` was given; any other function is returned as it is."""
    return getattr(build, "_acon_mm_original", build)


def _asks(cfg: Any) -> bool:
    return isinstance(cfg, dict) and "type" in cfg and ("act_cfg" in cfg or "act_sites" in cfg)


def _build(build: Callable, cfg: dict, *args, registry: Registry, **kwargs) -> Any:
    cls = _class_of(cfg, registry)
    if cls is None:
        return build(cfg, *args, registry=registry, **kwargs)  # unknown type: the registry says so
    where = cls.__name__
    act_cfg, act_sites = cfg.get("act_cfg"), cfg.get("act_sites")
    if act_sites is not None and act_cfg is None:
        raise ValueError(f"act_sites={act_sites!r} of {where} says where, but there is no act_cfg that says what")
    if act_cfg is None:
        return build(cfg, *args, registry=registry, **kwargs)
    native = takes_act_cfg(cls)
    check_act_cfg(act_cfg, where, registry)
    left_out = {"act_sites"} if native and act_sites in (None, "all") else {"act_sites", "act_cfg"}
    module = build({k: v for k, v in cfg.items() if k not in left_out}, *args, registry=registry, **kwargs)
    if native and act_sites is None and not (isinstance(module, nn.Module) and _is_acon(act_cfg, registry)):
        return module  # without acon_mm it is the same
    if not isinstance(module, nn.Module):
        raise ValueError(f"act_cfg on {where}, which is no module with activations: leave it out there")
    report = complete_activations(module, act_cfg, "all" if native and act_sites is None else act_sites)
    total = len(report.converted) + len(report.kept)
    print_log(f"act_cfg of {where}: {act_cfg['type']} at {len(report.converted)} of {total} activations", "current")
    return module


def _is_acon(act_cfg: dict, registry: Registry) -> bool:
    kind = act_cfg["type"] if inspect.isclass(act_cfg["type"]) else registry.get(act_cfg["type"])
    return inspect.isclass(kind) and issubclass(kind, Acon)


def _class_of(cfg: dict, registry: Registry) -> Callable | None:
    if not isinstance(cfg["type"], str):
        return cfg["type"]
    with registry.switch_scope_and_registry(cfg.get("_scope_")) as scoped:
        return scoped.get(cfg["type"])


def takes_act_cfg(cls: Callable) -> bool:
    """Whether a class has the argument, itself or by handing ``**kwargs`` on to a base that has it."""
    host = host_of_class(cls)
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
    """Say at build time which ACONs of a finished model do not know their channels."""
    if not isinstance(built, nn.Module) or isinstance(built, Acon):
        return
    missing = [name for name, m in built.named_modules() if isinstance(m, Acon) and m.num_channels is None]
    if missing:
        raise ValueError(
            f"{type(built).__name__} has activations that do not know their number of channels, "
            "because no layer before them tells it: "
            f"{', '.join(missing)}. Add num_channels to their act_cfg, or leave it out there"
        )
