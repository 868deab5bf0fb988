_base_ = ['../_base_/acon.py', 'mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py']
# init='relu' starts close to the ReLU that the base's weights were pretrained with.
model = dict(backbone=dict(act_cfg=dict(type='MetaAconC', init='relu')))
optim_wrapper = dict(paramwise_cfg=_base_.acon_no_decay)
