# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
from .base import DistillLoss
from .cc_loss import CCLoss, cc_loss
from .crd_loss import CRDMemoryLoss, nce_loss
from .cross_correlation import standardize
from .dist_loss import StrongerTeacherLoss, dist_loss
from .dkd_loss import DecoupledKDLoss, dkd_loss
from .hint_loss import HintLoss, hint_loss
from .kd_loss import KDLoss, kd_loss
from .ofa_loss import OFALoss, ofa_loss
from .rkd_loss import RKDLoss, rkd_loss
from .rsd_loss import RSDLoss, rsd_loss, rsd_loss_parts
from .sdd_loss import SDDLoss, sdd_loss

__all__ = [
    'CCLoss',
    'CRDMemoryLoss',
    'DecoupledKDLoss',
    'DistillLoss',
    'HintLoss',
    'KDLoss',
    'OFALoss',
    'RKDLoss',
    'RSDLoss',
    'SDDLoss',
    'StrongerTeacherLoss',
    'cc_loss',
    'dist_loss',
    'dkd_loss',
    'hint_loss',
    'kd_loss',
    'nce_loss',
    'ofa_loss',
    'rkd_loss',
    'rsd_loss',
    'rsd_loss_parts',
    'sdd_loss',
    'standardize',
]
