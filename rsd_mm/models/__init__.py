# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
from . import distillers, losses, necks
from .distillers import *  # noqa: F403
from .losses import *  # noqa: F403
from .necks import *  # noqa: F403

__all__ = [*distillers.__all__, *losses.__all__, *necks.__all__]
