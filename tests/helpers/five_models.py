"""The five supported models, small, and a real picture with annotations for them."""

import importlib

import numpy as np
import skimage.data
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from torch import nn

BASES = {
    "retinanet": "mmdet::_base_/models/retinanet_r50_fpn.py",
    "mask-rcnn": "mmdet::_base_/models/mask-rcnn_r50_fpn.py",
    "pspnet": "mmseg::_base_/models/pspnet_r50-d8.py",
    "deeplabv3": "mmseg::_base_/models/deeplabv3_r50-d8.py",
    "deeplabv3plus": "mmseg::_base_/models/deeplabv3plus_r50-d8.py",
}
DETECTORS = ("retinanet", "mask-rcnn")
BASE_CHANNELS, HEAD_CHANNELS = 16, 32
#: the settings of the detectors that have to agree with the neck's output, and others of that size
HEAD_CHANNELS_OF = {
    "retinanet": ("bbox_head.in_channels", "bbox_head.feat_channels"),
    "mask-rcnn": (
        *("rpn_head.in_channels", "rpn_head.feat_channels"),
        *("roi_head.bbox_roi_extractor.out_channels", "roi_head.mask_roi_extractor.out_channels"),
        *("roi_head.bbox_head.in_channels", "roi_head.bbox_head.fc_out_channels"),
        *("roi_head.mask_head.in_channels", "roi_head.mask_head.conv_out_channels"),
    ),
}
#: the parts of each model that have activations
PARTS = {
    "retinanet": ("backbone", "bbox_head"),
    "mask-rcnn": ("backbone", "rpn_head", "roi_head.bbox_head", "roi_head.mask_head"),
    **dict.fromkeys(("pspnet", "deeplabv3", "deeplabv3plus"), ("backbone", "decode_head", "auxiliary_head")),
}


def model_cfg(name: str, depth: int = 18, **parts: dict) -> dict:
    """The shipped model config with few channels.

    ``parts`` are merged into the parts named, as ``roi_head__bbox_head=dict(...)``.
    """
    scope, _, path = BASES[name].partition("::")
    root = importlib.import_module(scope).__path__[0]
    cfg = Config.fromfile(f"{root}/.mim/configs/{path}")
    stages = [BASE_CHANNELS * 2**stage * (4 if depth >= 50 else 1) for stage in range(4)]
    backbone = dict(depth=depth, init_cfg=None, base_channels=BASE_CHANNELS, stem_channels=BASE_CHANNELS)
    options = {f"backbone.{key}": value for key, value in backbone.items()}
    if name in DETECTORS:
        options |= {"backbone.frozen_stages": -1, "backbone.norm_eval": False}
        options |= {"neck.in_channels": stages, "neck.out_channels": HEAD_CHANNELS}
        for key in HEAD_CHANNELS_OF[name]:
            options[key] = HEAD_CHANNELS
    else:
        options |= {"pretrained": None, "backbone.norm_cfg.type": "BN"}
        for head, stage in (("decode_head", 3), ("auxiliary_head", 2)):
            options |= {f"{head}.norm_cfg.type": "BN", f"{head}.in_channels": stages[stage]}
            options[f"{head}.channels"] = HEAD_CHANNELS
        if name == "deeplabv3plus":
            options |= {"decode_head.c1_in_channels": stages[0], "decode_head.c1_channels": 16}
    for part, extra in parts.items():
        options |= {f"{part.replace('__', '.')}.{key}": value for key, value in extra.items()}
    cfg.merge_from_dict({f"model.{key}": value for key, value in options.items()})
    return cfg.model


def build(name: str, depth: int = 18, seed: int = 0, **parts: dict) -> nn.Module:
    """Build a model by the registry, as the runner does, and initialize it."""
    torch.manual_seed(seed)
    scope = BASES[name].partition("::")[0]
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(model_cfg(name, depth, **parts))
        model.init_weights()
    return model


def every_part(name: str, **options) -> dict:
    """Arguments of :func:`build` that set ``options`` on every part of a model."""
    return {part.replace(".", "__"): options for part in PARTS[name]}


def batch(name: str, size: int = 64, count: int = 2) -> tuple[torch.Tensor, list]:
    """Real pictures with an object (the astronaut's head) each, normalized, and their annotations."""
    step = 512 // size
    picture = skimage.data.astronaut()[::step, ::step].transpose(2, 0, 1)
    inputs = torch.stack([torch.from_numpy(np.roll(picture, 3 * i, axis=2).copy()) for i in range(count)]).float()
    inputs = (inputs - inputs.mean()) / inputs.std()
    top, bottom, left, right = (round(edge * size / 512) for edge in (0, 280, 130, 330))
    region = np.zeros((size, size), np.uint8)
    region[top:bottom, left:right] = 1
    meta = dict(img_shape=(size, size), ori_shape=(size, size), batch_input_shape=(size, size), pad_shape=(size, size))
    samples = []
    for _ in range(count):
        if name in DETECTORS:
            box = torch.tensor([[left, top, right, bottom]], dtype=torch.float32)
            masks = BitmapMasks(region[None], size, size)
            instances = InstanceData(bboxes=box, labels=torch.zeros(1, dtype=torch.long), masks=masks)
            sample = DetDataSample(metainfo={**meta, "scale_factor": (1.0, 1.0)}, gt_instances=instances)
        else:
            labels = PixelData(data=torch.from_numpy(region[None]).long())
            sample = SegDataSample(metainfo=meta, gt_sem_seg=labels)
        samples.append(sample)
    return inputs, samples


def total_loss(model: nn.Module, inputs: torch.Tensor, samples: list) -> torch.Tensor:
    """The training loss, as the runner sums it."""
    return model.parse_losses(model(inputs, samples, mode="loss"))[0]
