# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""The version of the package, read by ``setup.cfg``."""

__version__ = '0.1.0'
