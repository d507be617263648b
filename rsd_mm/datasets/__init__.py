# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
from .digits import SklearnDigits

__all__ = ['SklearnDigits']
