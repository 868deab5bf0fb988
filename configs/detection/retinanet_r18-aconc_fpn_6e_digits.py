_base_ = './retinanet_r18_fpn_6e_digits.py'
model = dict(backbone=dict(act_cfg=dict(type='AconC')))
optim_wrapper = dict(constructor='AconOptimWrapperConstructor')
