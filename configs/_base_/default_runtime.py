# What every run of rsd_mm shares, on top of MMPretrain's own runtime.
_base_ = 'mmpretrain::_base_/default_runtime.py'

# Registers RSDDistiller, RSDLoss, RSDProjector and the rest.
custom_imports = dict(imports=['rsd_mm'], allow_failed_imports=False)

custom_hooks = [
    # Finds before the first iteration what would end a distillation much later.
    dict(type='DistillCheckHook'),
    # Evaluates a teacher whose accuracy MMPretrain's model index states, and warns if it is off by more than a point.
    dict(type='TeacherAccuracyHook', tolerance=1.0),
    # Writes the student as a plain MMPretrain model when training ends.
    dict(type='ExportStudentHook'),
]

default_hooks = dict(checkpoint=dict(max_keep_ckpts=3, save_best='auto'))
