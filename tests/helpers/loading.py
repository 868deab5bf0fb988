"""Small models to load weights into, a check that a refused load leaves a model unchanged, and the converter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import mmdet.models
import mmseg.models  # noqa: F401  registers its backbones, as mmdet.models does
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from acon_mm.checkpoints import CheckpointError, load_state_dict
from helpers.tiny_runs import load_tool

SMALL = dict(depth=18, base_channels=8, stem_channels=8)
ACONC, META = dict(type="AconC", init="relu"), dict(type="MetaAconC", init="relu")
#: the pictures that the authors' networks take
RAW = dict(mean=[0.0] * 3, std=[1.0] * 3, bgr_to_rgb=False)


def backbone(act_cfg: dict | None = None, scope: str = "mmdet", **kwargs) -> nn.Module:
    """A ResNet-18 with 8 channels; the random weights of two calls differ."""
    cfg = dict(type=f"{scope}.ResNet", **SMALL | kwargs)
    return MODELS.build(cfg | dict(act_cfg=act_cfg) if act_cfg else cfg)


def retinanet_cfg(
    act_cfg: dict | None = ACONC,
    checkpoint: str | None = None,
    classes: int = 4,
    preprocessor: dict | None = None,
    **backbone,
) -> dict:
    """The config of a RetinaNet-R50 whose backbone has 4 channels."""
    cfg = Config.fromfile(Path(mmdet.__file__).parent / ".mim/configs/_base_/models/retinanet_r50_fpn.py").model
    cfg.backbone.update(dict(stem_channels=8, base_channels=4, norm_eval=False, frozen_stages=-1) | backbone)
    cfg.backbone.init_cfg = backbone.get("init_cfg") or (checkpoint and dict(type="Pretrained", checkpoint=checkpoint))
    if act_cfg:
        cfg.backbone.act_cfg = act_cfg
    channels = cfg.backbone.base_channels * 4
    cfg.neck.update(in_channels=[channels, 2 * channels, 4 * channels, 8 * channels], out_channels=8)
    cfg.bbox_head.update(in_channels=8, feat_channels=8, stacked_convs=1, num_classes=classes)
    cfg.data_preprocessor.update(preprocessor or {})
    return cfg


def retinanet(*args, **kwargs) -> nn.Module:
    with DefaultScope.overwrite_default_scope("mmdet"):
        return MODELS.build(retinanet_cfg(*args, **kwargs))


def without(start: str, state: Mapping) -> dict:
    """A state dict without the names that begin with `start`."""
    return {key: value for key, value in state.items() if not key.startswith(start)}


def state_of(model: nn.Module) -> dict:
    """All that a load can change, with copies of the tensors."""
    state = {}
    for name, tensor in (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)):
        state[name] = (id(tensor), tensor.requires_grad, tensor.detach().clone())
    for name, module in model.named_modules():
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            state[f"{name}: extra state"] = module.get_extra_state()
        state[f"{name}: hooks"] = dict(module._state_dict_hooks)
    return state


def same(first: object, second: object) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first.nan_to_num(nan=7e7), second.nan_to_num(nan=7e7))
    if isinstance(first, tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


@contextmanager
def left_unchanged(model: nn.Module) -> Iterator[None]:
    """Fails if a tensor, an extra state or a hook of the model is another one afterwards."""
    before = state_of(model)
    yield
    after = state_of(model)
    changed = [key for key in before.keys() | after.keys() if not same(before.get(key), after.get(key))]
    assert not changed, f"changed: {sorted(changed)[:5]}"


def convert_checkpoint(*args: str | Path) -> None:
    """Run tools/model_converters/convert_checkpoint.py in this process."""
    with DefaultScope.overwrite_default_scope("mmengine"):  # the tool sets another, which ends here
        load_tool("model_converters/convert_checkpoint").main([str(arg) for arg in args])


def refused(model: nn.Module, state_dict: Mapping, match: str, **kwargs) -> str:
    """The error of a load that must fail with a text like `match`, and must leave the model unchanged."""
    with left_unchanged(model), pytest.raises(CheckpointError, match=match) as error:
        load_state_dict(model, state_dict, **kwargs)
    return str(error.value)
