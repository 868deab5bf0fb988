"""Building the model of a config, in full or made small for a quick run."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from copy import deepcopy
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
import torch.distributed as dist
from mmengine.config import ConfigDict
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from ..compat import chdir
from . import shipped_configs

#: heights and widths of the pictures; the unchanged model runs on the first that is large enough
SIZES = (64, 128, 256, 300, 512, 640)
#: largest number of proposals, queries or sampled RoIs in a small model
_MAX_BOXES = 32
#: settings that :data:`_MAX_BOXES` limits, and the setting that must stand beside each ("" for none): ``num`` is a
#: sampler's, ``num_queries`` a detector's, which takes that many of the few places in a small picture
_LIMITED = {"max_per_img": "", "nms_pre": "", "num_proposals": "", "num": "pos_fraction", "num_queries": "bbox_head"}


def build(model_cfg: dict, package: str) -> nn.Module:
    """The model of a config of ``package``, with the same random weights each time."""
    for each in ("mmdet", "mmseg"):
        if find_spec(each):
            import_module(f"{each}.models")
            import_module(f"{each}.datasets")  # the maintained fork keeps a data preprocessor there
    torch.manual_seed(0)
    root = shipped_configs.config_dir(package).parent  # some configs name another config as "configs/..."
    with DefaultScope.overwrite_default_scope(package), chdir(root), _process_group():
        return MODELS.build(ConfigDict(model_cfg))


def build_small(model_cfg: dict, package: str) -> nn.Module:
    """Like :func:`build`, with few proposals and queries, for small pictures, and with BN for SyncBN.

    RoIAlign is mmcv's: a torchvision that was compiled for CUDA has only a slow one in Python for CPUs.
    """
    return revert_sync_batchnorm(build(_small(model_cfg), package))


def _small(node: Any) -> Any:
    if isinstance(node, (list, tuple)):
        return type(node)(_small(each) for each in node)
    if not isinstance(node, dict):
        return deepcopy(node)
    node = {key: _small(each) for key, each in node.items()}
    for key, beside in _LIMITED.items():
        if isinstance(node.get(key), int) and (not beside or beside in node):
            node[key] = min(node[key], _MAX_BOXES)
    if "use_torchvision" in node:
        node["use_torchvision"] = False
    if "img_size" in node:  # of position embeddings
        node["img_size"] = (SIZES[0], SIZES[0])
    if "templates" in node:  # sentences that a text encoder reads for each class
        node["templates"] = ["a photo of a {}."]
    return node


@contextlib.contextmanager
def _process_group() -> Iterator[None]:
    """A process group of this process alone, because mmcv's SyncBN asks for one when it is built."""
    is_ours = not dist.is_initialized()
    if is_ours:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        if is_ours:
            dist.destroy_process_group()


@contextlib.contextmanager
def no_output() -> Iterator[None]:
    """Suppress warnings, logs and everything that is printed."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
