"""Small components of mmdet, one for every family of classes with an entry in the tables."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple

import torch
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

VLFUSION = "mmdet.models.dense_heads.atss_vlfusion_head"  # since mmdet 3.3
LEVELS = [(2, 8, 16, 16), (2, 8, 8, 8)]
ROIS = (3, 8, 4, 4)
BN = dict(type="BN")
HEAD = dict(num_classes=3, in_channels=8, feat_channels=8)
STACKED = dict(**HEAD, stacked_convs=1, norm_cfg=BN)
BOXES = dict(in_channels=8, roi_feat_size=4, num_classes=3)
ONE_CLASS = {**BOXES, "num_classes": 1}
MASKS = dict(in_channels=8, roi_feat_size=4, conv_out_channels=8, num_classes=3)
ANCHORS = dict(
    anchor_generator=dict(
        type="AnchorGenerator", ratios=[1.0], octave_base_scale=8, scales_per_octave=1, strides=[8, 16]
    )
)
APPROXES = dict(
    approx_anchor_generator=dict(
        type="AnchorGenerator", octave_base_scale=4, scales_per_octave=1, ratios=[1.0], strides=[8, 16]
    ),
    square_anchor_generator=dict(type="AnchorGenerator", ratios=[1.0], scales=[4], strides=[8, 16]),
)
POINTS = dict(type="MlvlPointGenerator", offset=0, strides=[8, 16])
BUCKETS = dict(bbox_coder=dict(type="BucketingBBoxCoder", num_buckets=4, scale_factor=3.0))
DYNAMIC = dict(type="DynamicConv", in_channels=8, feat_channels=4, out_channels=8, input_feat_shape=4)
EXTRA = dict(in_channels=[8, 8], out_channels=8, num_outs=5, relu_before_extra_convs=True)
DETR = dict(embed_dims=8, num_classes=3, loss_cls=dict(type="FocalLoss", use_sigmoid=True))
DECODED = (2, 2, 5, 8)  # decoder layers, batch, queries, channels
RFP = dict(
    type="RFP",
    rfp_steps=2,
    aspp_out_channels=2,
    in_channels=[16, 32, 64, 128],
    out_channels=8,
    num_outs=5,
    rfp_backbone=dict(
        type="DetectoRS_ResNet", depth=50, base_channels=4, stem_channels=4, rfp_inplanes=8, pretrained=None
    ),
)


_ATTENTION = dict(embed_dims=8, num_heads=2, batch_first=True)
_FFN = dict(embed_dims=8, feedforward_channels=12, num_fcs=2, act_cfg=dict(type="ReLU", inplace=True))
MASKFORMER = dict(
    type="MaskFormerHead",
    in_channels=[8, 8],
    feat_channels=8,
    out_channels=8,
    num_things_classes=2,
    num_stuff_classes=1,
    num_queries=3,
    pixel_decoder=dict(type="PixelDecoder", norm_cfg=dict(type="GN", num_groups=2)),
    positional_encoding=dict(num_feats=4, normalize=True),
    transformer_decoder=dict(
        num_layers=2, layer_cfg=dict(self_attn_cfg=_ATTENTION, cross_attn_cfg=_ATTENTION, ffn_cfg=_FFN)
    ),
    loss_cls=dict(type="CrossEntropyLoss", class_weight=[1.0] * 4),
)
SAMPLE = DetDataSample(metainfo=dict(batch_input_shape=(64, 64), img_shape=(64, 64)))


class Part(NamedTuple):
    """A config, and the inputs of its forward: shapes of tensors, lists of shapes, or other values."""

    cfg: dict
    inputs: list
    run: Callable | None = None  # called instead of the forward


PARTS = {
    # necks
    "fpn-on-input": Part(dict(type="FPN", add_extra_convs="on_input", **EXTRA), [LEVELS]),
    "fpn-on-lateral": Part(dict(type="FPN", add_extra_convs="on_lateral", **EXTRA), [LEVELS]),
    "fpn-on-output": Part(dict(type="FPN", add_extra_convs="on_output", **EXTRA), [LEVELS]),
    "fpn-dropblock": Part(dict(type="FPN_DropBlock", add_extra_convs="on_output", **EXTRA), [LEVELS]),
    "pafpn": Part(dict(type="PAFPN", add_extra_convs="on_output", **EXTRA), [LEVELS]),
    "rfp": Part(RFP, [[(2, 3, 64, 64), (2, 16, 16, 16), (2, 32, 8, 8), (2, 64, 4, 4), (2, 128, 2, 2)]]),
    "ssh": Part(dict(type="SSH", num_scales=2, in_channels=[8, 8], out_channels=[8, 16]), [LEVELS]),
    "dyhead": Part(
        dict(type="DyHead", in_channels=16, out_channels=16, num_blocks=1, zero_init_offset=False),
        [[(2, 16, 8, 8), (2, 16, 4, 4)]],
    ),
    "nas-fcos-fpn": Part(
        dict(type="NASFCOS_FPN", in_channels=[8] * 4, out_channels=8, num_outs=5, norm_cfg=BN, start_level=1),
        [[(2, 8, 32, 32), (2, 8, 16, 16), (2, 8, 8, 8), (2, 8, 4, 4)]],
    ),
    # dense heads
    "rpn": Part(dict(type="RPNHead", in_channels=8, feat_channels=8), [LEVELS]),
    "rpn-2": Part(dict(type="RPNHead", in_channels=8, feat_channels=8, num_convs=2), [LEVELS]),
    "ga-rpn": Part(dict(type="GARPNHead", in_channels=8, feat_channels=8, **APPROXES), [LEVELS]),
    "ga-retina": Part(dict(type="GARetinaHead", stacked_convs=1, **HEAD, **APPROXES), [LEVELS]),
    "guided-anchor": Part(dict(type="GuidedAnchorHead", **HEAD, **APPROXES), [LEVELS]),
    "cascade-rpn-stage": Part(dict(type="StageCascadeRPNHead", in_channels=8, feat_channels=8), [LEVELS]),
    "fovea": Part(dict(type="FoveaHead", with_deform=True, **STACKED, strides=[8, 16]), [LEVELS]),
    "corner": Part(dict(type="CornerHead", num_classes=3, in_channels=8, num_feat_levels=2), [LEVELS]),
    "centripetal": Part(
        dict(type="CentripetalHead", num_classes=3, in_channels=8, num_feat_levels=2, corner_emb_channels=0), [LEVELS]
    ),
    "reppoints": Part(dict(type="RepPointsHead", point_feat_channels=12, **STACKED), [LEVELS]),
    "vfnet": Part(
        dict(
            type="VFNetHead",
            **STACKED,
            strides=[8, 16],
            regress_ranges=((-1, 64), (64, 1e8)),
            anchor_generator=dict(**ANCHORS["anchor_generator"], center_offset=0.0),
        ),
        [LEVELS],
    ),
    "atss": Part(dict(type="ATSSHead", **STACKED, **ANCHORS), [LEVELS]),
    "gfl": Part(dict(type="GFLHead", **STACKED, **ANCHORS), [LEVELS]),
    "ddod": Part(dict(type="DDODHead", **STACKED, use_dcn=False, **ANCHORS), [LEVELS]),
    "tood": Part(
        dict(type="TOODHead", **{**HEAD, "feat_channels": 16}, stacked_convs=2, norm_cfg=BN, **ANCHORS), [LEVELS]
    ),
    "retina": Part(dict(type="RetinaHead", **STACKED, **ANCHORS), [LEVELS]),
    "retina-sepbn": Part(dict(type="RetinaSepBNHead", num_ins=2, **STACKED, **ANCHORS), [LEVELS]),
    "sabl-retina": Part(dict(type="SABLRetinaHead", **STACKED, **APPROXES), [LEVELS]),
    "fsaf": Part(dict(type="FSAFHead", **STACKED, **ANCHORS), [LEVELS]),
    "nas-fcos-head": Part(dict(type="NASFCOSHead", **STACKED, strides=[8, 16]), [LEVELS]),
    "yolact": Part(dict(type="YOLACTHead", num_classes=3, in_channels=8, feat_channels=8), [LEVELS]),
    "protonet": Part(
        dict(
            type="YOLACTProtonet",
            num_classes=3,
            in_channels=8,
            proto_channels=(8, None, 12, 4),
            proto_kernel_sizes=(3, -2, 3, 1),
            num_protos=4,
        ),
        [LEVELS[0]],
        lambda module, x: module.protonet(x),
    ),
    "protonet-last": Part(
        dict(type="YOLACTProtonet", num_classes=3, in_channels=8, include_last_relu=False, num_protos=32),
        [LEVELS[0]],
        lambda module, x: module.protonet(x),
    ),
    "rtmdet-ins": Part(dict(type="RTMDetInsSepBNHead", **STACKED, share_conv=False, anchor_generator=POINTS), [LEVELS]),
    "dyconv": Part(
        dict(
            type=f"{VLFUSION}.DyConv",
            conv_func=lambda i, o, s: import_module(VLFUSION).Conv3x3Norm(i, o, s, norm_type=["gn", 2]),
            in_channels=8,
            out_channels=8,
        ),
        [],
        lambda module: module(dict(visual=tensors(LEVELS), lang=None))["visual"],
    ),
    # box heads
    "convfc": Part(
        dict(
            type="ConvFCBBoxHead",
            num_shared_convs=1,
            num_cls_fcs=1,
            num_reg_fcs=2,
            conv_out_channels=8,
            fc_out_channels=12,
            **BOXES,
        ),
        [ROIS],
    ),
    "scnet-box": Part(dict(type="SCNetBBoxHead", num_shared_fcs=2, num_cls_fcs=1, fc_out_channels=12, **BOXES), [ROIS]),
    "crowddet": Part(
        dict(
            type="MultiInstanceBBoxHead",
            num_cls_fcs=1,
            num_reg_fcs=1,
            fc_out_channels=12,
            **{**BOXES, "num_classes": 1},
        ),
        [ROIS],
    ),
    "crowddet-refine": Part(
        dict(type="MultiInstanceBBoxHead", with_refine=True, fc_out_channels=12, **ONE_CLASS), [ROIS]
    ),
    "double": Part(
        dict(type="DoubleConvFCBBoxHead", num_convs=1, num_fcs=2, conv_out_channels=16, fc_out_channels=12, **BOXES),
        [ROIS, ROIS],
    ),
    "sabl": Part(
        dict(
            type="SABLHead",
            num_classes=3,
            cls_in_channels=8,
            reg_in_channels=8,
            roi_feat_size=2,
            cls_out_channels=12,
            reg_cls_out_channels=8,
            reg_offset_out_channels=8,
            num_reg_fcs=1,
            **BUCKETS,
        ),
        [(3, 8, 2, 2)],
    ),
    "dii": Part(
        dict(
            type="DIIHead",
            num_classes=3,
            in_channels=8,
            num_heads=2,
            feedforward_channels=12,
            dynamic_conv_cfg=DYNAMIC,
            loss_cls=dict(type="FocalLoss", use_sigmoid=True),
        ),
        [(6, 8, 4, 4), (2, 3, 8)],
    ),
    # mask heads
    "fcn-mask": Part(dict(type="FCNMaskHead", num_convs=1, **MASKS), [ROIS]),
    "htc-mask": Part(dict(type="HTCMaskHead", num_convs=1, **MASKS), [ROIS, ROIS]),
    "scnet-mask": Part(dict(type="SCNetMaskHead", num_convs=2, norm_cfg=BN, **MASKS), [ROIS]),
    "dynamic-mask": Part(
        dict(type="DynamicMaskHead", num_convs=1, dynamic_conv_cfg=dict(**DYNAMIC, with_proj=False), **MASKS),
        [ROIS, (3, 8)],
    ),
    "coarse-mask": Part(dict(type="CoarseMaskHead", num_fcs=2, fc_out_channels=12, **MASKS), [ROIS]),
    "mask-iou": Part(
        dict(
            type="MaskIoUHead",
            num_convs=2,
            roi_feat_size=4,
            in_channels=8,
            conv_out_channels=8,
            fc_out_channels=12,
            num_classes=3,
        ),
        [ROIS, (3, 8, 8)],
    ),
    "grid": Part(
        dict(
            type="GridHead",
            num_convs=1,
            roi_feat_size=4,
            in_channels=8,
            point_feat_channels=4,
            norm_cfg=dict(type="GN", num_groups=4),
        ),
        [ROIS],
    ),
    # trackers
    "quasi-dense": Part(
        dict(
            type="QuasiDenseEmbedHead",
            num_fcs=2,
            roi_feat_size=4,
            in_channels=8,
            fc_out_channels=12,
            loss_track_aux=None,
        ),
        [ROIS],
    ),
    "roi-embed": Part(
        dict(type="RoIEmbedHead", num_fcs=2, roi_feat_size=4, in_channels=8, fc_out_channels=12), [ROIS, ROIS, [3], [3]]
    ),
    "fc-module": Part(
        dict(type="mmdet.models.reid.fc_module.FcModule", in_channels=8, out_channels=12, norm_cfg=dict(type="BN1d")),
        [(4, 8)],
    ),
    # transformers
    "detr-head": Part(dict(type="DETRHead", **DETR), [DECODED]),
    "conditional-detr-head": Part(dict(type="ConditionalDETRHead", **DETR), [DECODED, (2, 5, 2)]),
    "dab-detr-head": Part(dict(type="DABDETRHead", **DETR), [DECODED, (2, 2, 5, 4)]),
    "deformable-detr-head": Part(
        dict(type="DeformableDETRHead", **DETR, num_pred_layer=2), [DECODED, [(2, 5, 4), (2, 5, 4)]]
    ),
    "maskformer": Part(MASKFORMER, [LEVELS], lambda module, levels: module(levels, [SAMPLE] * 2)),
    "dynamic-conv": Part(DYNAMIC, [(3, 8), ROIS]),
}
if find_spec("mmdet.models.dense_heads.clr_head"):  # only the maintained fork has it
    PARTS["clr"] = Part(
        dict(type="CLRHead", num_priors=4, fc_hidden_dim=8, prior_feat_channels=8, sample_points=36),
        [[(2, 8, 40, 100), (2, 8, 20, 50), (2, 8, 10, 25)]],
        lambda module, levels: module(levels, None, training=True)[0]["predictions_lists"],
    )


def build(name: str, **options) -> nn.Module:
    """A component in training mode, with random weights that do not depend on the options."""
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmdet"):
        return MODELS.build(ConfigDict({**PARTS[name].cfg, **options}))


def run(name: str, module: nn.Module):
    """The outputs for random inputs. Every call has the same inputs."""
    return call(name, module, tensors(PARTS[name].inputs))


def call(name: str, module: nn.Module, inputs: list):
    part = PARTS[name]
    return part.run(module, *inputs) if part.run else module(*inputs)


def tensors(shapes: list, generator: torch.Generator | None = None) -> list:
    """Random numbers between 0 and 1, which may also be used as boxes or masks."""
    generator = generator or torch.Generator().manual_seed(0)
    return [_tensor(each, generator) for each in shapes]


def _tensor(shape: tuple | list, generator: torch.Generator) -> Tensor | list:
    if isinstance(shape, tuple):
        return torch.rand(shape, generator=generator)
    return shape if isinstance(shape[0], int) else tensors(shape, generator)
