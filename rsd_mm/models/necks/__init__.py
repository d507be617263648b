# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
from .rsd_projector import RSDProjector

__all__ = ['RSDProjector']
