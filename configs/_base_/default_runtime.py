# What every run of rsd_mm shares, on top of MMPretrain's own runtime.
_base_ = 'mmpretrain::_base_/default_runtime.py'

# Registers RSDDistiller, RSDLoss, RSDProjector and the rest.
custom_imports = dict(imports=['rsd_mm'], allow_failed_imports=False)

# Finds before the first iteration what would end a distillation much later.
custom_hooks = [dict(type='DistillCheckHook')]

default_hooks = dict(checkpoint=dict(max_keep_ckpts=3, save_best='auto'))
