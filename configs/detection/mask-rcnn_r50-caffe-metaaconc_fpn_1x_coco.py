# From the authors' ImageNet weights, converted by
# tools/model_converters/convert_checkpoint.py official THEIR_FILE checkpoints/resnet50-metaaconc.pth
_base_ = ['mmdet::mask_rcnn/mask-rcnn_r50-caffe_fpn_1x_coco.py', '../_base_/acon.py', '../_base_/raw_bgr.py']
model = dict(
    data_preprocessor=_base_.raw_bgr,
    backbone=dict(
        act_cfg=dict(type='MetaAconC', init='paper'),
        init_cfg=dict(checkpoint='checkpoints/resnet50-metaaconc.pth')))
optim_wrapper = dict(constructor='AconOptimWrapperConstructor')
