"""The configs that mmdet and mmseg ship, what of them makes a model, and where ``act_cfg`` goes in them."""

import hashlib
import importlib.util
import json
from collections.abc import Iterator
from copy import deepcopy
from itertools import zip_longest
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from ...convert import registry

#: settings that change no layer and no activation: what happens to inputs, outputs and losses, and how many classes
_NO_LAYERS = ("data_preprocessor", "train_cfg", "test_cfg", "num_classes", "ignore_index", "align_corners")
#: settings that fetch weights
_WEIGHTS = ("pretrained", "init_cfg", "teacher_ckpt")
#: what configs call the parts of a part: RoI heads and wrappers around whole detectors
_WRAPPERS = ("roi_head", "detector", "student", "teacher", "track_head", "panoptic_fusion_head")


def config_dir(package: str) -> Path:
    """The directory of configs in an installed mmdet or mmseg."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise FileNotFoundError(f"{package} is not installed")
    return Path(spec.origin).parent / ".mim" / "configs"


def shipped(package: str) -> list[str]:
    """The configs of a package, as ``'mmdet/retinanet/retinanet_r50_fpn_1x_coco.py'``; ``_base_`` ones are none."""
    root = config_dir(package)
    files = (path.relative_to(root) for path in root.rglob("*.py"))
    return sorted(f"{package}/{path}" for path in files if not any(part.startswith("_") for part in path.parts))


def spread(names: list[str], count: int) -> list[str]:
    """``count`` of the configs: one of each family in turn, until there are enough."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(family(name), []).append(name)
    chosen: list[str] = []
    for turn in zip_longest(*groups.values()):
        names = [name for name in turn if name is not None]
        wanted = min(count - len(chosen), len(names))
        chosen += [names[i * len(names) // wanted] for i in range(wanted)]
    return sorted(chosen)


def family(config: str) -> str:
    """``'mmdet/retinanet'``"""
    return "/".join(config.split("/")[:2])


def model_of(config: str) -> dict | None:
    """The model of a config, without what would download weights; None if it has none."""
    package, _, path = config.partition("/")
    cfg = Config.fromfile(config_dir(package) / path)
    model = cfg.get("model")
    return None if model is None else _without_weights(model.to_dict())


def _without_weights(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _without_weights(value) for key, value in node.items() if key not in _WEIGHTS}
    if isinstance(node, (list, tuple)):
        return type(node)(_without_weights(value) for value in node)
    return node


def key_of(model: dict, config: str) -> str:
    """Equal for the models of two configs of one package if they have the same layers, but for the classes."""
    text = config.partition("/")[0] + json.dumps(_layers(model), sort_keys=True, default=repr)
    return hashlib.sha1(text.encode()).hexdigest()[:16]


def _layers(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _layers(each) for key, each in node.items() if key not in _NO_LAYERS and key[:4] != "loss"}
    return [_layers(each) for each in node] if isinstance(node, (list, tuple)) else node


def ask(model: dict, act_cfg: dict, leave_out: tuple[str, ...] = ()) -> dict:
    """The model with ``act_cfg`` on itself and on each of its components, but those in ``leave_out``."""
    asked = deepcopy(model)
    for path in ["", *components(model)]:
        if path not in leave_out:
            at(asked, path).update(act_cfg=deepcopy(act_cfg), act_sites="all")
    return asked


def at(model: dict, path: str) -> dict:
    for part in filter(None, path.split(".")):
        model = model[int(part)] if isinstance(model, (list, tuple)) else model[part]
    return model


def components(model: dict) -> list[str]:
    """Where in a config the backbone, the neck and the heads are: ``'roi_head.bbox_head.0'``."""
    return list(_components(model, ""))


def _components(model: dict, prefix: str) -> Iterator[str]:
    for name, value in model.items():
        if not (name in (*_WRAPPERS, "backbone", "neck", "reid") or name.endswith(("_head", "_neck", "_backbone"))):
            continue
        several = isinstance(value, (list, tuple))
        for path, part in ((f"{name}.{i}", each) for i, each in enumerate(value)) if several else [(name, value)]:
            if isinstance(part, dict) and "type" in part:
                yield prefix + path
                if name in _WRAPPERS:
                    yield from _components(part, f"{prefix}{path}.")


def takes_act_cfg(part: dict, package: str) -> bool:
    """Whether the class of a part takes ``act_cfg`` itself."""
    with DefaultScope.overwrite_default_scope(package), MODELS.switch_scope_and_registry(None) as models:
        cls = models.get(part["type"]) if isinstance(part["type"], str) else part["type"]
    return cls is not None and registry.takes_act_cfg(cls)
