# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
from .digits import SklearnDigits
from .loading import LoadCheckedImage

__all__ = ['LoadCheckedImage', 'SklearnDigits']
