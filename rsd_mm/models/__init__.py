# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
from .distillers import Distiller, RSDDistiller
from .losses import (
    CCLoss,
    CRDMemoryLoss,
    DecoupledKDLoss,
    HintLoss,
    KDLoss,
    OFALoss,
    RKDLoss,
    RSDLoss,
    SDDLoss,
    StrongerTeacherLoss,
    rsd_loss,
    rsd_loss_parts,
)
from .necks import HintRegressor, LinearProjector, OFAProjector, RSDProjector

__all__ = [
    'CCLoss',
    'CRDMemoryLoss',
    'DecoupledKDLoss',
    'Distiller',
    'HintLoss',
    'HintRegressor',
    'KDLoss',
    'LinearProjector',
    'OFALoss',
    'OFAProjector',
    'RKDLoss',
    'RSDDistiller',
    'RSDLoss',
    'RSDProjector',
    'SDDLoss',
    'StrongerTeacherLoss',
    'rsd_loss',
    'rsd_loss_parts',
]
