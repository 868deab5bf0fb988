_base_ = ['../_base_/acon.py', 'mmseg::deeplabv3/deeplabv3_r50-d8_4xb2-40k_cityscapes-512x1024.py']
# The pretrained weights were trained with ReLU. init='relu' starts close to ReLU.
model = dict(backbone=dict(act_cfg=dict(type='AconC', init='relu')))
optim_wrapper = dict(constructor='AconOptimWrapperConstructor')
