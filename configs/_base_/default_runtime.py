# What every run of rsd_mm shares, on top of MMPretrain's own runtime.
_base_ = 'mmpretrain::_base_/default_runtime.py'

# Registers RSDDistiller, RSDLoss, RSDProjector and the rest.
custom_imports = dict(imports=['rsd_mm'], allow_failed_imports=False)

# By name, so that a config that adds hooks of its own in custom_hooks keeps these.
default_hooks = dict(
    checkpoint=dict(type='AtomicCheckpointHook', max_keep_ckpts=3, save_best='auto'),
    # Finds before the first iteration what would end a distillation much later.
    distill_check=dict(type='DistillCheckHook'),
    # Evaluates the teacher before the first iteration, and warns if it is off by more than a point where MMPretrain's
    # model index states its accuracy; and a student that starts from weights.
    teacher_accuracy=dict(type='TeacherAccuracyHook', tolerance=1.0),
    # A resumed run goes on as if it had not been interrupted.
    resume=dict(type='ResumeHook'),
    # SIGTERM saves a checkpoint; add 'SIGINT' for Ctrl-C.
    interrupt=dict(type='InterruptHook', signals=['SIGTERM']),
    # Stops at a loss that is not finite, and reports features that say nothing.
    health=dict(type='HealthHook'),
    # Writes the student as a plain MMPretrain model when training ends.
    export_student=dict(type='ExportStudentHook'),
)
