# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
from fast import fast_runs  # noqa: F401
