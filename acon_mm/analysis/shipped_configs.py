"""The configs that mmdet and mmseg ship, their models, and the components that take ``act_cfg``."""

import hashlib
import importlib.util
import json
from collections.abc import Collection, Iterable, Iterator
from copy import deepcopy
from itertools import zip_longest
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from ..convert import registry
from .torchvision_import import import_torchvision

#: settings that change no layer and no activation, apart from the number of classes
_NO_LAYERS = ("data_preprocessor", "train_cfg", "test_cfg", "num_classes", "ignore_index", "align_corners")
#: settings that download weights
_WEIGHTS = ("pretrained", "init_cfg", "teacher_ckpt")
#: names of components that have components: RoI heads, and detectors inside of others
_WRAPPERS = ("roi_head", "detector", "student", "teacher", "track_head", "panoptic_fusion_head")


def config_dir(package: str) -> Path:
    """The directory of configs in an installed mmdet or mmseg."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"{package} is not installed")
    return Path(spec.origin).parent / ".mim" / "configs"


def shipped(package: str) -> list[str]:
    """The configs of a package, without ``_base_``, as ``'mmdet/retinanet/retinanet_r50_fpn_1x_coco.py'``."""
    root = config_dir(package)
    files = (path.relative_to(root) for path in root.rglob("*.py"))
    return sorted(f"{package}/{path}" for path in files if not any(part.startswith("_") for part in path.parts))


def turns(names: Iterable[str]) -> Iterator[list[str]]:
    """The configs in turns: one of each family, then a second of each, and so on."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(family(name), []).append(name)
    for turn in zip_longest(*groups.values()):
        yield [name for name in turn if name is not None]


def sample(names: list[str], count: int) -> list[str]:
    """``count`` of the configs, by :func:`turns`."""
    chosen: list[str] = []
    for turn in turns(names):
        wanted = min(count - len(chosen), len(turn))
        chosen += [turn[i * len(turn) // wanted] for i in range(wanted)]
    return sorted(chosen)


def family(config: str) -> str:
    """Package and directory of a config, as ``'mmdet/retinanet'``."""
    return "/".join(config.split("/")[:2])


def model_of(config: str) -> dict:
    """The model of a config, without the settings that download weights; empty if the config has no model."""
    package, _, path = config.partition("/")
    import_torchvision()  # some configs import mmpretrain
    cfg = Config.fromfile(config_dir(package) / path)
    return without_weights(cfg.model.to_dict()) if cfg.get("model") else {}


def without_weights(node: Any) -> Any:
    """A part of a model config without the settings that download or read weights."""
    if isinstance(node, dict):
        return {key: without_weights(value) for key, value in node.items() if key not in _WEIGHTS}
    if isinstance(node, (list, tuple)):
        return type(node)(without_weights(value) for value in node)
    return node


def layers_key(model: dict, config: str) -> str:
    """A string that is equal for two models of one package with the same layers. The number of classes may differ."""
    text = config.partition("/")[0] + json.dumps(_layer_settings(model), sort_keys=True, default=repr)
    return hashlib.sha1(text.encode()).hexdigest()[:16]


def _layer_settings(node: Any) -> Any:
    if isinstance(node, dict):
        return {
            key: _layer_settings(each)
            for key, each in node.items()
            if key not in _NO_LAYERS and not key.startswith("loss")
        }
    return [_layer_settings(each) for each in node] if isinstance(node, (list, tuple)) else node


def with_act_cfg(model: dict, act_cfg: dict, leave_out: Collection[str] = ()) -> dict:
    """The model with ``act_cfg`` on itself and on each of its components, except those in ``leave_out``."""
    model = deepcopy(model)
    for path in ["", *components(model)]:
        if path not in leave_out:
            part_at(model, path).update(act_cfg=deepcopy(act_cfg), act_sites="all")
    return model


def part_at(model: dict, path: str) -> dict:
    """The part of a model config at a dotted path; the model itself at ``""``."""
    for part in filter(None, path.split(".")):
        model = model[int(part)] if isinstance(model, (list, tuple)) else model[part]
    return model


def components(model: dict) -> list[str]:
    """The dotted paths of the backbone, the neck and the heads in a model config, as ``'roi_head.bbox_head.0'``."""
    return list(_components(model, ""))


def _components(model: dict, prefix: str) -> Iterator[str]:
    for name, value in model.items():
        if not (name in (*_WRAPPERS, "backbone", "neck", "reid") or name.endswith(("_head", "_neck", "_backbone"))):
            continue
        is_list = isinstance(value, (list, tuple))
        for path, part in [(f"{name}.{i}", each) for i, each in enumerate(value)] if is_list else [(name, value)]:
            if isinstance(part, dict) and "type" in part:
                yield prefix + path
                if name in _WRAPPERS:
                    yield from _components(part, f"{prefix}{path}.")


def takes_act_cfg(part: dict, package: str) -> bool:
    """Whether the class of a component has the argument ``act_cfg``."""
    with DefaultScope.overwrite_default_scope(package), MODELS.switch_scope_and_registry(None) as models:
        cls = models.get(part["type"]) if isinstance(part["type"], str) else part["type"]
    return cls is not None and registry.takes_act_cfg(cls)
