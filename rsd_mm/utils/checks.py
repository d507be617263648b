# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Checks of options and batches, and the wording of their errors."""

import difflib
import math
from typing import Any, Iterable


def check_number(name: str, value: Any, positive: bool = False, hint: str = '') -> None:
    """Raise a ValueError unless ``value`` is finite and >= 0, or > 0 if ``positive``."""
    if not (value > 0 if positive else value >= 0) or not value < math.inf:
        raise ValueError(f'{name} must be a number {">" if positive else ">="} 0, received {value!r}.{hint}')


def check_flag(name: str, value: Any) -> bool:
    """Return ``value``, or raise a ValueError if it is not a bool."""
    if not isinstance(value, bool):
        raise ValueError(f'{name} is True or False, received {value!r}.')
    return value


def check_batch_size(what: str, size: int, least: int = 2) -> None:
    """Raise a ValueError if a batch has fewer than ``least`` samples."""
    if size < least:
        raise ValueError(
            f'{what} at least {least} samples a step; received {size}. If this is the last batch of an epoch, set '
            'drop_last=True in train_dataloader; otherwise raise its batch_size.'
        )


def unknown_option(where: str, name: str, option: str, known: Iterable[str]) -> str:
    """Return the message for an option that does not exist."""
    known = list(known)
    close = difflib.get_close_matches(option, known, n=1)
    hint = f' (did you mean {close[0]!r}?)' if close else ''
    return f'{where}: {name} has no option {option!r}{hint}. It takes: {", ".join(known)}.'
