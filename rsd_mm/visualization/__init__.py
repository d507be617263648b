# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
from .correlation import agreement, cross_correlation, draw_correlation, effective_rank
from .features import read_features
from .similarity import MinibatchCKA, unbiased_hsic

__all__ = [
    'MinibatchCKA',
    'agreement',
    'cross_correlation',
    'draw_correlation',
    'effective_rank',
    'read_features',
    'unbiased_hsic',
]
