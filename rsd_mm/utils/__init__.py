# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
from .checkpoint import CheckpointError, read_checkpoint, state_dict_of
from .random_state import keep_random_state
from .weights import load_strictly

__all__ = ['CheckpointError', 'keep_random_state', 'load_strictly', 'read_checkpoint', 'state_dict_of']
