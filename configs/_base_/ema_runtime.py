# The runtime with an average of the student's weights, decay 0.99996 (the ImageNet-1k recipe for ViT and MLP students).
_base_ = './default_runtime.py'

custom_hooks = [
    dict(type='DistillCheckHook'),
    dict(type='TeacherAccuracyHook', tolerance=1.0),
    dict(type='ExportStudentHook'),
    # mmengine's momentum is 1 - decay.
    dict(type='EMAHook', momentum=4e-5, priority='ABOVE_NORMAL'),
]
