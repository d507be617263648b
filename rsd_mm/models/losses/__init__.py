# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
from .rsd_loss import RSDLoss, rsd_loss, rsd_loss_parts, standardize

__all__ = ['RSDLoss', 'rsd_loss', 'rsd_loss_parts', 'standardize']
