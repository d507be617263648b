# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""The contract of a projector."""

from typing import Any, Tuple

from mmengine.model import BaseModule


class Projector(BaseModule):
    """Base class of projectors, which map one side of a term before its loss. Used in training only.

    A term fills in the options that a class declares in ``inferred``, where the config leaves them out:

    - ``in_channels``, ``out_channels``: the widths of the two sides;
    - ``form``: the :class:`~rsd_mm.models.taps.Form` of the student's stage;
    - ``student_width``, ``teacher_width``: the widths of the two embeddings.
    """

    #: Options of the constructor that a term fills in.
    inferred: Tuple[str, ...] = ('in_channels', 'out_channels')
    #: With a form a projector gets the tokens of a stage as they are, otherwise as a map without class token.
    form: Any = None

    out_channels: int
