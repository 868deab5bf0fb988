# DeepLabV3-R18 with ReLU, trained from scratch on the embedded digits: the baseline for ACON.
_base_ = [
    '../_base_/acon.py',
    'mmseg::_base_/models/deeplabv3_r50-d8.py',
    '../_base_/digits_segmentation.py',
]
model = dict(
    data_preprocessor=dict(size=(160, 160)),
    pretrained=None,
    backbone=dict(depth=18, strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2)),
    decode_head=dict(
        in_channels=512, channels=64, num_classes=11, init_cfg=_base_.conv_seg_init,
        dilations=(1, 2, 4, 6)),
    auxiliary_head=dict(in_channels=256, channels=64, num_classes=11, init_cfg=_base_.conv_seg_init))
