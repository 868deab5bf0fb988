_base_ = './deeplabv3plus_r18-d16_1xb8-300_digits-160x160.py'
model = dict(backbone=dict(act_cfg=dict(type='AconC')))
optim_wrapper = dict(constructor='AconOptimWrapperConstructor')
