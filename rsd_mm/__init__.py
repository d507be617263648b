# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""rsd_mm: cross-architecture knowledge distillation for MMPretrain and the OpenMMLab family.

Importing it registers its modules in mmengine's root registry, so that configs of every OpenMMLab project find them by
their bare names::

    custom_imports = dict(imports=['rsd_mm'])
"""

from .dependencies import check_dependencies
from .version import __version__

check_dependencies()

# After the check, whose messages are clearer than those of failing imports.
from .datasets import LoadCheckedImage, SklearnDigits  # noqa: E402
from .engine import (  # noqa: E402
    AtomicCheckpointHook,
    CorrelationHook,
    DistillCheckHook,
    ExportStudentHook,
    HealthHook,
    InterruptHook,
    ResumeHook,
    TeacherAccuracyHook,
)
from .models import Distiller, RSDDistiller, RSDLoss, RSDProjector, rsd_loss, rsd_loss_parts  # noqa: E402
from .utils.safe_loading import allow_mmengine_objects  # noqa: E402

allow_mmengine_objects()

__all__ = [
    'AtomicCheckpointHook',
    'CorrelationHook',
    'DistillCheckHook',
    'Distiller',
    'ExportStudentHook',
    'HealthHook',
    'InterruptHook',
    'LoadCheckedImage',
    'RSDDistiller',
    'RSDLoss',
    'RSDProjector',
    'ResumeHook',
    'SklearnDigits',
    'TeacherAccuracyHook',
    '__version__',
    'rsd_loss',
    'rsd_loss_parts',
]
