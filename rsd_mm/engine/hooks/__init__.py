# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
from .atomic_checkpoint_hook import AtomicCheckpointHook
from .correlation_hook import CorrelationHook
from .distill_check_hook import DistillCheckHook
from .export_student_hook import ExportStudentHook
from .health_hook import HealthHook
from .interrupt_hook import InterruptHook
from .resume_hook import ResumeHook
from .teacher_accuracy_hook import TeacherAccuracyHook

__all__ = [
    'AtomicCheckpointHook',
    'CorrelationHook',
    'DistillCheckHook',
    'ExportStudentHook',
    'HealthHook',
    'InterruptHook',
    'ResumeHook',
    'TeacherAccuracyHook',
]
