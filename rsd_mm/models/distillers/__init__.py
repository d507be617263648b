# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
from .distiller import Distiller
from .input_bridge import InputBridge
from .rsd_distiller import RSDDistiller
from .teacher import Teacher
from .teacher_classifier import TeacherClassifier
from .term import DistillTerm

__all__ = ['DistillTerm', 'Distiller', 'InputBridge', 'RSDDistiller', 'Teacher', 'TeacherClassifier']
