# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
from .classifier import classifier_layers, num_classes
from .form import Form
from .recorder import Recorder
from .regions import ScaleLogitsTap
from .resolve import resolve_tap
from .tap import ClassifierTap, StageTap, Tap

__all__ = [
    'ClassifierTap',
    'Form',
    'Recorder',
    'ScaleLogitsTap',
    'StageTap',
    'Tap',
    'classifier_layers',
    'num_classes',
    'resolve_tap',
]
