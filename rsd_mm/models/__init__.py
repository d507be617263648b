# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
from .distillers import Distiller, RSDDistiller
from .losses import RSDLoss, rsd_loss, rsd_loss_parts
from .necks import RSDProjector

__all__ = ['Distiller', 'RSDDistiller', 'RSDLoss', 'RSDProjector', 'rsd_loss', 'rsd_loss_parts']
