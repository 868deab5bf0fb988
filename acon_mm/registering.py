"""Registration of our classes, also where another package has registered one of the same name."""

import logging
from collections.abc import Callable

from mmengine.logging import print_log
from mmengine.registry import Registry

SCOPE = "acon_mm"


def register(registry: Registry) -> Callable[[type], type]:
    """Register a class under its name, and under its name with our scope: ``'MetaAconC'``, ``'acon_mm.MetaAconC'``.

    If the name is taken by another package, that class keeps it, and a warning says so. The name with our scope is
    always ours.
    """

    def decorate(cls: type) -> type:
        child = registry.children.get(SCOPE) or Registry(registry.name, parent=registry, scope=SCOPE)
        child.register_module(module=cls)
        other = registry.module_dict.get(cls.__name__)
        if other is None:
            registry.register_module(module=cls)
        else:
            print_log(
                f"type={cls.__name__!r} in a config is {other.__module__}.{other.__qualname__}, which was registered "
                f"before acon_mm. Write type='{SCOPE}.{cls.__name__}' for that of acon_mm",
                logger="current",
                level=logging.WARNING,
            )
        return cls

    return decorate
