# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
from .correlation import agreement, cross_correlation, draw_correlation, effective_rank

__all__ = ['agreement', 'cross_correlation', 'draw_correlation', 'effective_rank']
