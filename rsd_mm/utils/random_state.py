# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Random numbers that do not depend on what else is drawn."""

import random
from contextlib import contextmanager
from typing import Iterator

import numpy as np
import torch


@contextmanager
def keep_random_state() -> Iterator[None]:
    """Leave the random states of python, numpy and torch as they were before the block.

    Building a teacher and the parts of a method draws random numbers. Without
    this, the student's initial weights, augmentation and dropout would depend on
    the method, and two methods would not start from the same student.
    """
    python, array = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(array)
