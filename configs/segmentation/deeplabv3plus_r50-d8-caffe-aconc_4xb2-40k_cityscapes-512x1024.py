# From the authors' ImageNet weights, converted by
# tools/model_converters/convert_checkpoint.py official THEIR_FILE checkpoints/resnet50-aconc.pth
_base_ = [
    '../_base_/acon.py',
    'mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024.py',
    '../_base_/raw_bgr.py',
]
model = dict(
    data_preprocessor=_base_.raw_bgr,
    pretrained=None,
    backbone=dict(
        type='ResNet',  # not ResNetV1c: the authors' stem is one 7x7 convolution
        style='caffe',
        act_cfg=dict(type='AconC', init='paper'),
        init_cfg=dict(type='Pretrained', checkpoint='checkpoints/resnet50-aconc.pth')))
optim_wrapper = dict(constructor='AconOptimWrapperConstructor')
