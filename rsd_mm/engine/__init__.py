# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
from .hooks import (
    AtomicCheckpointHook,
    CorrelationHook,
    DistillCheckHook,
    ExportStudentHook,
    HealthHook,
    InterruptHook,
    ResumeHook,
    TeacherAccuracyHook,
)

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
