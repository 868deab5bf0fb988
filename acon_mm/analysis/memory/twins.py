"""The config of a model, and that of its twin with ReLU."""

from __future__ import annotations

import inspect
from typing import Any

from mmengine.registry import MODELS

from ...errors import UserError
from ...layers import Acon


def with_relu(model_cfg: dict) -> dict:
    """The same config with ReLU for each ACON.

    Raises:
        UserError: the config has no ACON.
    """
    acons = {
        name
        for registry in (MODELS, *MODELS.children.values())
        for name, kind in registry.module_dict.items()
        if _is_acon(kind)
    }

    def changed(node: Any) -> Any:
        if isinstance(node, dict):
            kind = node.get("type")
            if _is_acon(kind) or (isinstance(kind, str) and kind.rpartition(".")[2] in acons):
                return {"type": "ReLU"}
            return {key: changed(value) for key, value in node.items()}
        return type(node)(map(changed, node)) if isinstance(node, (list, tuple)) else node

    twin = changed(model_cfg)
    if twin == model_cfg:
        raise UserError(
            "the model of the config has no ACON to compare with ReLU: add one, for example "
            "--cfg-options model.backbone.act_cfg.type=AconC"
        )
    return twin


def _is_acon(kind: Any) -> bool:
    return inspect.isclass(kind) and issubclass(kind, Acon)
