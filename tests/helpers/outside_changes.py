"""What changes outside acon_mm when it is imported, uninstalled and installed again. Run as a script; prints JSON.

It compares, before and after, all attributes of the modules of PyTorch and OpenMMLab, of the classes in them, and of
their registries, and the contents of all lists, sets and dictionaries found there. Importing acon_mm for the first time
must be seen, so this runs in a process of its own.
"""

import importlib
import json
import os
import sys
from collections import OrderedDict, defaultdict
from typing import Any

from mmengine.registry import Registry

PACKAGES = ("torch", "numpy", "mmengine", "mmcv", "mmdet", "mmseg", "builtins", "logging", "pickle", "warnings")
CONTAINERS = (list, set, dict, OrderedDict, defaultdict)
IMPORTED_FIRST = ("mmengine.runner", "mmcv.cnn", "mmcv.ops", "mmdet.models", "mmseg.models")


def snapshot() -> dict[str, Any]:
    """Each attribute by its dotted name; of a container, a copy. Classes of acon_mm in registries are left out."""
    found: dict[str, Any] = {"os.environ": tuple(os.environ.items()), "sys.path": list(sys.path)}
    for module_name, module in list(sys.modules.items()):
        if module is None or module_name.partition(".")[0] not in PACKAGES:
            continue
        for name, value in list(vars(module).items()):
            place = f"{module_name}.{name}"
            if isinstance(value, Registry):  # imported under its name into many modules
                found |= {f"{value.scope}:{value.name}.{key}": each for key, each in vars(value).items()}
                classes = {key: cls for key, cls in value.module_dict.items() if not _is_ours(cls)}
                found[f"{value.scope}:{value.name}._module_dict"] = classes
                children = {scope: child for scope, child in value.children.items() if scope != "acon_mm"}
                found[f"{value.scope}:{value.name}._children"] = children
                continue
            found[place] = value
            if isinstance(value, type) and value.__module__ == module_name:
                found |= {f"{place}.{key}": each for key, each in vars(value).items()}
    return {place: _copy(value) for place, value in found.items() if not place.endswith("__builtins__")}


def _is_ours(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == "acon_mm"


def _copy(value: Any) -> Any:
    return value.copy() if type(value) in CONTAINERS else value


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if type(one) not in (tuple, *CONTAINERS) or type(one) is not type(other) or len(one) != len(other):
        return False
    if isinstance(one, dict):
        return all(key in other and other[key] is value for key, value in one.items())
    return one == other if type(one) is not list else all(x is y for x, y in zip(one, other))


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return sorted(place for place, value in before.items() if place not in after or not _same(value, after[place]))


def main() -> None:
    for name in IMPORTED_FIRST:
        importlib.import_module(name)
    before = snapshot()
    patches = importlib.import_module("acon_mm").patches
    found = {"imported": changed(before, snapshot())}
    patches.uninstall()
    found["uninstalled"] = changed(before, snapshot())
    patches.install()
    found["installed"] = changed(before, snapshot())
    print(json.dumps(found))


if __name__ == "__main__":
    main()
