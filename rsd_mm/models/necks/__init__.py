# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
from .base import Projector
from .projectors import HintRegressor, LinearProjector, OFAProjector
from .rsd_projector import RSDProjector

__all__ = ['HintRegressor', 'LinearProjector', 'OFAProjector', 'Projector', 'RSDProjector']
