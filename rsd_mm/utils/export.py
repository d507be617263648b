# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
from rsd_mm.engine.export import export_student, load_exported, read_training_checkpoint  # noqa: F401
