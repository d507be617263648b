# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""How image positions are laid out in a tensor."""

import math
from typing import List, NamedTuple, Optional, Tuple

from torch import Tensor, nn


class Form(NamedTuple):
    """Layout of a feature map or of tokens.

    Attributes:
        layout (str): ``NCHW``, ``NHWC``, ``NLC`` (tokens) or ``NCL``.
        channels (int): Width.
        grid (Tuple[int, int]): Height and width in positions, for the probing image.
        prefix (int): Number of tokens before those of the positions (class and distillation tokens).
    """

    layout: str
    channels: int
    grid: Tuple[int, int]
    prefix: int = 0

    @property
    def is_map(self) -> bool:
        """Whether it is the feature map of a CNN rather than tokens."""
        return self.layout == 'NCHW'

    def canonical(self, value: Tensor) -> Tensor:
        """Return feature maps as ``(B, C, H, W)``, tokens as ``(B, prefix + L, C)``."""
        if self.layout == 'NHWC':
            return value.flatten(1, 2)
        return value.transpose(1, 2) if self.layout == 'NCL' else value

    def to_map(self, value: Tensor) -> Tensor:
        """Return the positions of a canonical value as a map ``(B, C, H, W)``.

        Raises:
            ValueError: If the tokens are not those of a square image.
        """
        if self.is_map:
            return value
        value = value[:, self.prefix :]
        batch, length, channels = value.shape
        height, width = self.grid
        if height * width != length:  # another input size than the probe's
            height = width = math.isqrt(length)
        if height * width != length:
            raise ValueError(
                f'{length} tokens are no square image, so their positions are unknown. Methods on feature maps need '
                'square images.'
            )
        return value.transpose(1, 2).reshape(batch, channels, height, width)


def form_of(value: Tensor, model: nn.Module) -> Optional[Form]:
    """Return the form of a network's output, None if it has no positions."""
    if value.ndim == 4:
        _, a, b, c = value.shape
        last = getattr(model, 'output_fmt', '') == 'NHWC' or (a == b and b != c)
        return Form('NHWC', c, (a, b)) if last else Form('NCHW', a, (b, c))
    if value.ndim == 3:
        return _tokens('NLC', *value.shape[1:])
    return None


def forms_of_width(value: Tensor, width: int) -> List[Form]:
    """Return the forms in which a tensor has ``width`` channels at several positions."""
    shape = value.shape
    forms = []
    if value.ndim == 4:
        forms = [Form('NCHW', shape[1], (shape[2], shape[3])), Form('NHWC', shape[3], (shape[1], shape[2]))]
    elif value.ndim == 3:
        forms = [_tokens('NLC', shape[1], shape[2]), _tokens('NCL', shape[2], shape[1])]
    return [form for form in forms if form.channels == width and form.grid[0] * form.grid[1] > 1]


def _tokens(layout: str, length: int, channels: int) -> Form:
    side = math.isqrt(length)
    return Form(layout, channels, (side, side), length - side * side)
