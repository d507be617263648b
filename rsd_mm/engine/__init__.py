# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
from .hooks import DistillCheckHook, ExportStudentHook, TeacherAccuracyHook

__all__ = ['DistillCheckHook', 'ExportStudentHook', 'TeacherAccuracyHook']
