# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
from .hooks import CorrelationHook, DistillCheckHook, ExportStudentHook, TeacherAccuracyHook

__all__ = ['CorrelationHook', 'DistillCheckHook', 'ExportStudentHook', 'TeacherAccuracyHook']
