# RetinaNet-R18 with ReLU, trained from scratch on the embedded digits: the baseline for ACON.
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    '../_base_/digits_detection.py',
    '../_base_/digits_schedule.py',
    '../_base_/acon.py',
]
model = dict(
    data_preprocessor=dict(pad_size_divisor=32),
    backbone=dict(depth=18, frozen_stages=-1, norm_eval=False, init_cfg=None),
    neck=dict(
        in_channels=[64, 128, 256, 512], out_channels=128, start_level=1, num_outs=3,
        add_extra_convs=False, norm_cfg=dict(type='BN')),
    bbox_head=dict(
        num_classes=10,
        in_channels=128,
        feat_channels=128,
        stacked_convs=2,
        norm_cfg=dict(type='BN'),
        # Digits have 20 to 56 pixels.
        anchor_generator=dict(octave_base_scale=2.5, ratios=[1.0, 1.6], strides=[8, 16, 32])),
    test_cfg=dict(nms_pre=300, max_per_img=30))
