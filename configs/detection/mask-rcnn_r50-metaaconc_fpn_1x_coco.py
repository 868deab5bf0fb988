_base_ = ['mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', '../_base_/acon.py']
# The pretrained weights, some of them frozen, were trained with ReLU. init='relu' starts close to ReLU.
model = dict(backbone=dict(act_cfg=dict(type='MetaAconC', init='relu')))
optim_wrapper = dict(constructor='AconOptimWrapperConstructor')
