# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
from .distill_check_hook import DistillCheckHook

__all__ = ['DistillCheckHook']
