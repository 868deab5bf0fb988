_base_ = './fpn_r18-d16_1xb16-1800_digits-80x80.py'
model = dict(backbone=dict(act_cfg=dict(type='MetaAconC')))
optim_wrapper = dict(constructor='AconOptimWrapperConstructor')
