# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
from .checkpoint import CheckpointError, load_strictly, read_checkpoint, state_dict_of
from .config import ModelReference, build_model, resolve_model
from .random_state import keep_random_state

__all__ = [
    'CheckpointError',
    'ModelReference',
    'build_model',
    'keep_random_state',
    'load_strictly',
    'read_checkpoint',
    'resolve_model',
    'state_dict_of',
]
