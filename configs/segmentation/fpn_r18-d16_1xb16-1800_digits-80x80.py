# Semantic FPN on the first three stages of a ResNet-18 of half width, with ReLU. It is trained from scratch until it
# tells the digits apart. The other digits configs here stop long before that.
_base_ = [
    '../_base_/acon.py',
    'mmseg::_base_/models/fpn_r50.py',
    '../_base_/digits_segmentation.py',
]
crop_size = (80, 80)
norm_cfg = dict(type='BN')
model = dict(
    data_preprocessor=dict(size=crop_size),
    pretrained=None,
    backbone=dict(
        type='ResNet', depth=18, base_channels=32, stem_channels=32, norm_cfg=norm_cfg,
        num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(0, 1, 2)),
    neck=dict(in_channels=[32, 64, 128], out_channels=64, num_outs=3, norm_cfg=norm_cfg),
    decode_head=dict(
        in_channels=[64, 64, 64], in_index=[0, 1, 2], feature_strides=[4, 8, 16], channels=64, num_classes=11,
        dropout_ratio=0.0, norm_cfg=norm_cfg, init_cfg=_base_.conv_seg_init))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    # Nine tenths of a picture are background, and easy. These crops have more of the digits.
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(batch_size=16, dataset=dict(pipeline=train_pipeline))
max_iters = 1800
train_cfg = dict(max_iters=max_iters, val_interval=600)
optim_wrapper = dict(optimizer=dict(lr=3e-3))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='PolyLR', power=0.9, eta_min=0, by_epoch=False, begin=50, end=max_iters),
]
default_hooks = dict(checkpoint=dict(interval=600))
