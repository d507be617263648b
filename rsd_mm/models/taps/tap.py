# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Places in a network where a representation is read."""

from dataclasses import dataclass
from typing import Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from .form import Form


@dataclass(frozen=True)
class Tap:
    """The input or output of a module.

    Attributes:
        name (str): Its name in the config.
        sources (Tuple[str, ...]): The path of the module, or of several.
        inputs (bool): Whether the module's input is read, rather than its output.
        channels (int, optional): The width of what is read, if known.
        data_idx (int, optional): Which of several inputs or outputs.
        record_idx (int, optional): Which of several runs in a forward.
        per_class (bool): Whether the last dimension is the classes.
        form (Form, optional): How positions are laid out, for a stage.
    """

    name: str
    sources: Tuple[str, ...]
    inputs: bool = False
    channels: Optional[int] = None
    data_idx: Optional[int] = None
    record_idx: Optional[int] = None
    per_class: bool = False
    form: Optional[Form] = None

    def read(self, model: nn.Module, values: Sequence[Tensor]) -> Tensor:
        """Return the representation, from what was recorded at each source."""
        return values[0]

    def as_map(self, value: Tensor) -> Tensor:
        """Return a stage as a feature map ``(B, C, H, W)``, anything else as it is."""
        return value

    def __str__(self) -> str:
        return f'{self.name} ({"input" if self.inputs else "output"} of {" and ".join(map(repr, self.sources))})'


@dataclass(frozen=True)
class ClassifierTap(Tap):
    """``embedding`` or ``logits``: the input or output of the layer that computes the logits, ``(B, D)``.

    A head with several such layers (distilled DeiT and LeViT have one for each of two tokens, Conformer one for each
    branch) is read at all of them. The values are averaged, as these heads average their predictions, or concatenated
    if their widths differ.
    """

    def read(self, model: nn.Module, values: Sequence[Tensor]) -> Tensor:
        # Around a classifier that is a 1 x 1 convolution.
        values = [value.flatten(1) if value.shape[2:] == (1, 1) else value for value in values]
        if len(values) == 1:
            return values[0]
        if len({value.shape for value in values}) == 1:
            return torch.stack(values).mean(dim=0)
        return torch.cat(values, dim=1)


@dataclass(frozen=True)
class StageTap(Tap):
    """The end of a stage: a feature map ``(B, C, H, W)`` or tokens ``(B, prefix + L, C)``."""

    form: Form = Form('NCHW', 0, (1, 1))

    def read(self, model: nn.Module, values: Sequence[Tensor]) -> Tensor:
        return self.form.canonical(values[0])

    def as_map(self, value: Tensor) -> Tensor:
        return self.form.to_map(value)
