# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""From the student's normalized images to the teacher's."""

from typing import Any, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class InputBridge(nn.Module):
    """Convert the student's normalized images to those that the teacher expects.

    Normalization is undone and redone in one affine step per channel, ``x * std_s / std_t + (mean_s - mean_t) /
    std_t``. Mixup and CutMix commute with it, so the teacher sees the very images that the student sees. With equal
    normalization and size, images pass without a copy.

    Args:
        student (nn.Module): The student's data preprocessor.
        teacher (nn.Module): The teacher's data preprocessor.
        size (Tuple[int, int], optional): Height and width that the teacher expects, if different. Defaults to None.
        flip (bool, optional): Whether the teacher sees the channels in the opposite order (RGB and BGR). Defaults to
            None: it does if exactly one of the preprocessors reverses the channels of the loader.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        size: Optional[Tuple[int, int]] = None,
        flip: Optional[bool] = None,
    ) -> None:
        super().__init__()
        mean_s, std_s = _mean_and_std(student)
        mean_t, std_t = _mean_and_std(teacher)
        self.flip = reverses_channels(student) != reverses_channels(teacher) if flip is None else flip
        if self.flip:  # to the teacher's order
            mean_s, std_s = mean_s.flip(0), std_s.flip(0)
        # From the config rather than learned: not in the state dict.
        self.register_buffer('scale', (std_s / std_t).float(), persistent=False)
        self.register_buffer('shift', ((mean_s - mean_t) / std_t).float(), persistent=False)
        self.renormalize = not (torch.equal(mean_s, mean_t) and torch.equal(std_s, std_t))
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        """Convert images ``(B, C, H, W)`` of the student to ``(B, C, H', W')`` for the teacher."""
        if self.flip and images.shape[1] == 3:
            images = images.flip(1)
        if self.renormalize:
            images = torch.addcmul(self.shift.to(images.dtype), images, self.scale.to(images.dtype))
        if self.size is not None and tuple(images.shape[-2:]) != self.size:
            images = F.interpolate(images, size=self.size, mode='bicubic', antialias=True)
        return images

    def extra_repr(self) -> str:
        return f'renormalize={self.renormalize}, flip={self.flip}, size={self.size}'


def reverses_channels(preprocessor: Any) -> bool:
    """Whether a data preprocessor reverses the channels of the loader."""
    # ClsDataPreprocessor has to_rgb. mmengine's ImgDataPreprocessor keeps its own under a private name only.
    return bool(getattr(preprocessor, 'to_rgb', getattr(preprocessor, '_channel_conversion', False)))


def _mean_and_std(preprocessor: Any) -> Tuple[Tensor, Tensor]:
    """Return mean and std, ``(C, 1, 1)`` in float64, in the model's order of channels."""
    if not isinstance(getattr(preprocessor, 'mean', None), Tensor):  # It does not normalize.
        return torch.zeros(1, 1, 1, dtype=torch.float64), torch.ones(1, 1, 1, dtype=torch.float64)
    return preprocessor.mean.double().cpu(), preprocessor.std.double().cpu()
