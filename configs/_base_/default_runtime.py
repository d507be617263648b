# MMPretrain's runtime, with the hooks of rsd_mm.
_base_ = 'mmpretrain::_base_/default_runtime.py'

# Registers RSDDistiller, RSDLoss, RSDProjector etc.
custom_imports = dict(imports=['rsd_mm'], allow_failed_imports=False)

# In default_hooks, so that a config that sets custom_hooks keeps them.
default_hooks = dict(
    checkpoint=dict(type='AtomicCheckpointHook', max_keep_ckpts=3, save_best='auto'),
    # Checks before the first iteration for what would otherwise fail much later.
    distill_check=dict(type='DistillCheckHook'),
    # Evaluates the teacher (and a student with a checkpoint) before the first iteration; warns if the teacher is more
    # than 1 point off the accuracy in MMPretrain's model index.
    teacher_accuracy=dict(type='TeacherAccuracyHook', tolerance=1.0),
    # A resumed run continues exactly as if it had not been interrupted.
    resume=dict(type='ResumeHook'),
    # Saves a checkpoint on SIGTERM, then exits; add 'SIGINT' for Ctrl-C.
    interrupt=dict(type='InterruptHook', signals=['SIGTERM']),
    # Stops diverged runs and reports collapsed features.
    health=dict(type='HealthHook'),
    # Saves the student as a plain MMPretrain model after training.
    export_student=dict(type='ExportStudentHook'),
)
