# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
from .distiller import Distiller, DistillTerm, TeacherClassifier
from .rsd_distiller import RSDDistiller
from .taps import Recorder, Tap, find_classifiers, num_classes, resolve_tap
from .teacher import InputBridge, Teacher

__all__ = [
    'DistillTerm',
    'Distiller',
    'InputBridge',
    'RSDDistiller',
    'Recorder',
    'Tap',
    'Teacher',
    'TeacherClassifier',
    'find_classifiers',
    'num_classes',
    'resolve_tap',
]
