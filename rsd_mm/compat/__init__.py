# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Help for packages that rsd_mm composes with and does not need; nothing here is imported unless asked for."""
