"""Small components of mmseg, one for every family of classes with an entry in the tables."""

from __future__ import annotations

import torch
from mmengine.registry import MODELS, DefaultScope
from torch import nn

NORM = dict(type="BN")
HEAD = dict(channels=8, num_classes=3, norm_cfg=NORM)
PICTURE = (2, 3, 64, 64)
LEVELS = [(2, 8, 16, 16), (2, 12, 8, 8), (2, 16, 4, 4)]
SE_LOSS = dict(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=0.2)


def _stage(blocks: int, *channels: int, block: str = "BASIC") -> dict:
    counts = dict(num_branches=len(channels), num_blocks=(blocks,) * len(channels))
    return dict(num_modules=1, block=block, num_channels=channels, **counts)


_HRNET = dict(
    type="HRNet",
    extra=dict(
        stage1=_stage(1, 8, block="BOTTLENECK"),
        stage2=_stage(1, 8, 12),
        stage3=_stage(1, 8, 12, 16),
        stage4=_stage(1, 8, 12, 16, 20),
    ),
)
_MSCAN = dict(
    type="MSCAN",
    embed_dims=[8, 8, 16, 16],
    mlp_ratios=[2, 2, 2, 2],
    depths=[1, 1, 1, 1],
    norm_cfg=NORM,
    drop_path_rate=0.0,
)
_KERNEL_UPDATE = dict(
    type="KernelUpdateHead",
    num_classes=3,
    num_heads=2,
    num_mask_fcs=2,
    feedforward_channels=16,
    in_channels=8,
    out_channels=8,
    conv_kernel_size=1,
    kernel_updator_cfg=dict(
        type="KernelUpdator", in_channels=8, feat_channels=8, out_channels=8, norm_cfg=dict(type="LN")
    ),
)
_KNET = dict(
    type="IterativeDecodeHead",
    num_stages=1,
    kernel_update_head=[_KERNEL_UPDATE],
    kernel_generate_head=dict(type="FCNHead", in_channels=16, in_index=2, num_convs=1, **HEAD),
)

#: name -> config, shapes of the inputs (a list: one argument that is a list of tensors)
PARTS: dict[str, tuple[dict, tuple | list]] = {
    "resnest": (dict(type="ResNeSt", depth=50, stem_channels=8, base_channels=8), PICTURE),
    "resnext": (dict(type="ResNeXt", depth=50, groups=2, base_channels=8, base_width=4), PICTURE),
    "hrnet": (_HRNET, PICTURE),
    "ddrnet": (dict(type="DDRNet", channels=4, ppm_channels=8), PICTURE),
    "pidnet-s": (dict(type="PIDNet", channels=8, ppm_channels=12, num_stem_blocks=2, num_branch_blocks=3), PICTURE),
    "pidnet-l": (dict(type="PIDNet", channels=8, ppm_channels=12, num_stem_blocks=3, num_branch_blocks=4), PICTURE),
    "bisenetv1": (
        dict(
            type="BiSeNetV1",
            backbone_cfg=dict(type="ResNet", depth=18, base_channels=8, stem_channels=8),
            spatial_channels=(8, 8, 8, 16),
            context_channels=(16, 32, 64),
            out_channels=24,
        ),
        PICTURE,
    ),
    "bisenetv2": (
        dict(
            type="BiSeNetV2",
            detail_channels=(8, 8, 16),
            semantic_channels=(4, 8, 8, 16),
            semantic_expansion_ratio=2,
            bga_channels=16,
        ),
        PICTURE,
    ),
    "stdc": (
        dict(
            type="STDCContextPathNet",
            backbone_cfg=dict(
                type="STDCNet",
                stdc_type="STDCNet1",
                in_channels=3,
                channels=(8, 8, 16, 16, 32),
                bottleneck_type="cat",
                num_convs=4,
                norm_cfg=NORM,
                act_cfg=dict(type="ReLU"),
            ),
            last_in_channels=(32, 16),
            out_channels=8,
            ffm_cfg=dict(in_channels=24, out_channels=16, scale_factor=4),
        ),
        PICTURE,
    ),
    "cgnet": (dict(type="CGNet", num_channels=(8, 8, 16), num_blocks=(2, 2)), PICTURE),
    "erfnet": (
        dict(
            type="ERFNet",
            enc_downsample_channels=(4, 8, 16),
            enc_stage_non_bottlenecks=(1, 2),
            enc_non_bottleneck_dilations=(2, 4),
            enc_non_bottleneck_channels=(8, 16),
            dec_upsample_channels=(8, 4),
            dec_stages_non_bottleneck=(1, 1),
            dec_non_bottleneck_channels=(8, 4),
            dropout_ratio=0.0,
        ),
        PICTURE,
    ),
    "fastscnn": (
        dict(
            type="FastSCNN",
            downsample_dw_channels=(4, 8),
            global_in_channels=8,
            global_block_channels=(8, 12, 16),
            global_block_strides=(2, 2, 1),
            global_out_channels=16,
            higher_in_channels=8,
            lower_in_channels=16,
            fusion_out_channels=16,
            norm_cfg=NORM,
        ),
        PICTURE,
    ),
    "icnet": (
        dict(
            type="ICNet",
            backbone_cfg=dict(
                type="ResNetV1c",
                depth=18,
                stem_channels=8,
                base_channels=8,
                dilations=(1, 1, 2, 4),
                strides=(1, 2, 1, 1),
            ),
            layer_channels=(16, 64),
            light_branch_middle_channels=4,
            psp_out_channels=8,
            out_channels=(8, 12, 16),
            norm_cfg=NORM,
        ),
        PICTURE,
    ),
    "mobilenetv2": (dict(type="MobileNetV2", widen_factor=0.1), PICTURE),
    "mobilenetv3": (dict(type="MobileNetV3", arch="small"), PICTURE),
    "mscan": (_MSCAN, PICTURE),
    "mit": (dict(type="MixVisionTransformer", embed_dims=8, num_layers=[1, 1, 1, 1], num_heads=[1, 1, 2, 2]), PICTURE),
    "unet": (
        dict(
            type="UNet",
            base_channels=4,
            num_stages=3,
            strides=(1, 1, 1),
            enc_num_convs=(1, 1, 1),
            dec_num_convs=(1, 1),
            downsamples=(True, True),
            enc_dilations=(1, 1, 1),
            dec_dilations=(1, 1),
        ),
        PICTURE,
    ),
    "icneck": (dict(type="ICNeck", in_channels=(8, 12, 16), out_channels=8), LEVELS),
    "fpn": (
        dict(
            type="FPN",
            in_channels=[8, 12, 16],
            out_channels=8,
            num_outs=5,
            add_extra_convs="on_output",
            relu_before_extra_convs=True,
        ),
        LEVELS,
    ),
    "feature2pyramid": (
        dict(type="Feature2Pyramid", embed_dim=8, rescales=[4, 2, 1, 0.5], norm_cfg=NORM),
        [(2, 8, 8, 8)] * 4,
    ),
    "enc": (
        dict(
            type="EncHead",
            in_channels=[8, 12, 16],
            in_index=(0, 1, 2),
            num_codes=6,
            add_lateral=True,
            loss_se_decode=SE_LOSS,
            **HEAD,
        ),
        LEVELS,
    ),
    "ema": (
        dict(type="EMAHead", in_channels=16, in_index=2, ema_channels=12, num_bases=4, num_stages=2, **HEAD),
        LEVELS,
    ),
    "apc": (dict(type="APCHead", in_channels=16, in_index=2, pool_scales=(1, 2), **HEAD), LEVELS),
    "dm": (dict(type="DMHead", in_channels=16, in_index=2, filter_sizes=(1, 3), **HEAD), LEVELS),
    "ham": (
        dict(
            type="LightHamHead",
            in_channels=[8, 12, 16],
            in_index=[0, 1, 2],
            ham_channels=8,
            ham_kwargs=dict(MD_R=4, MD_S=1, train_steps=2, eval_steps=2, inv_t=100, rand_init=False),
            **HEAD,
        ),
        LEVELS,
    ),
    "knet": (_KNET, LEVELS),
    "pid": (dict(type="PIDHead", in_channels=16, **HEAD), [(2, 8, 8, 8), (2, 16, 8, 8), (2, 8, 8, 8)]),
    "ddr": (dict(type="DDRHead", in_channels=16, **HEAD), [(2, 8, 8, 8), (2, 16, 8, 8)]),
    "segformer": (dict(type="SegformerHead", in_channels=[8, 12, 16], in_index=[0, 1, 2], **HEAD), LEVELS),
    "lraspp": (
        dict(
            type="LRASPPHead",
            in_channels=(4, 4, 8),
            in_index=(0, 1, 2),
            branch_channels=(4, 4),
            input_transform="multiple_select",
            **HEAD,
        ),
        [(2, 4, 100, 100), (2, 4, 100, 100), (2, 8, 50, 50)],
    ),
    "dpt": (
        dict(
            type="DPTHead",
            in_channels=(8, 8, 8, 8),
            in_index=(0, 1, 2, 3),
            embed_dims=8,
            post_process_channels=[4, 8, 8, 8],
            readout_type="project",
            input_transform="multiple_select",
            **HEAD,
        ),
        [((2, 8, 4, 4), (2, 8))] * 4,
    ),
    "vpd": (
        dict(
            type="VPDDepthHead",
            in_channels=[16, 16, 32],
            embed_dim=8,
            feature_dim=64,
            num_deconv_layers=2,
            num_deconv_filters=(16, 16),
            fmap_border=0,
        ),
        [(2, 16, 16, 16), (2, 16, 8, 8), (2, 16, 4, 4), (2, 16, 2, 2)],
    ),
}


def build(name: str, **options) -> nn.Module:
    """A component in training mode, with random weights that do not depend on the options."""
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmseg"):
        return MODELS.build({**PARTS[name][0], **options})


def inputs(name: str) -> torch.Tensor | list:
    """Random inputs, the same at every call."""
    generator = torch.Generator().manual_seed(0)

    def tensors(shape):
        if isinstance(shape[0], int):
            return torch.randn(shape, generator=generator)
        return [tensors(each) for each in shape]

    return tensors(PARTS[name][1])
