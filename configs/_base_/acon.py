# The common part of all configs with ACON.
# It must come before mmseg:: bases: the maintained fork finds these only after acon_mm is imported.
__import__('acon_mm')
custom_imports = dict(imports=['acon_mm', 'acon_mm.datasets'], allow_failed_imports=False)
