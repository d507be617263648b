# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
from .hooks import *  # noqa: F403
from .hooks import __all__ as __all__
