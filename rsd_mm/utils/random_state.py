# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Isolation of random states."""

import random
from contextlib import contextmanager
from typing import Iterator

import numpy as np
import torch


@contextmanager
def keep_random_state() -> Iterator[None]:
    """Restore the random states of python, numpy and torch after the block.

    Building a teacher and the parts of a method draws random numbers. The student's initial weights, augmentation and
    dropout must not depend on it, or two methods would not start from the same student.
    """
    python, array = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(array)
