_base_ = './pspnet_r18-d8_1xb8-300_digits-96x96.py'
model = dict(backbone=dict(act_cfg=dict(type='MetaAconC')))
optim_wrapper = dict(paramwise_cfg=_base_.acon_no_decay)
