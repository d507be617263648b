# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
from .hooks import DistillCheckHook

__all__ = ['DistillCheckHook']
