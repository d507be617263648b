# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
from .correlation_hook import CorrelationHook
from .distill_check_hook import DistillCheckHook
from .export_student_hook import ExportStudentHook
from .teacher_accuracy_hook import TeacherAccuracyHook

__all__ = ['CorrelationHook', 'DistillCheckHook', 'ExportStudentHook', 'TeacherAccuracyHook']
