# What every config with an ACON shares.
# Listed before mmseg:: bases, since the maintained fork finds those only once acon_mm is there.
__import__('acon_mm')
custom_imports = dict(imports=['acon_mm', 'acon_mm.datasets'], allow_failed_imports=False)
# ACON's per-channel parameters are not decayed (nor were the authors'): optim_wrapper = dict(paramwise_cfg=...)
acon_no_decay = dict(
    custom_keys={
        '.p1': dict(decay_mult=0.0),
        '.p2': dict(decay_mult=0.0),
        '.beta': dict(decay_mult=0.0),
    })
