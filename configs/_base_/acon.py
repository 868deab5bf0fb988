# The common part of all configs with ACON.
# It must come before mmseg:: bases: the maintained fork finds these only after acon_mm is imported.
__import__('acon_mm')
custom_imports = dict(imports=['acon_mm', 'acon_mm.datasets'], allow_failed_imports=False)
# No weight decay for ACON's parameters, as in the authors' training: optim_wrapper = dict(paramwise_cfg=...)
acon_no_decay = dict(
    custom_keys={
        '.p1': dict(decay_mult=0.0),
        '.p2': dict(decay_mult=0.0),
        '.beta': dict(decay_mult=0.0),
    })
