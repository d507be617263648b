# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Helpers for optional packages; rsd_mm does not import them itself."""
