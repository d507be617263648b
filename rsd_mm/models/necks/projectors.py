# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Projectors of the compared methods."""

import math
from typing import Any, List, Optional

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
from torch import Tensor, nn

from .base import Projector


@MODELS.register_module()
class LinearProjector(Projector):
    """A linear layer on an embedding: CC's and CRD's, and RSD without its projector.

    Args:
        in_channels (int): Input width.
        out_channels (int): Output width.
        bias (bool): Defaults to True.
        init_cfg (dict, optional): Another initialization than torch's. Defaults to None.
    """

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True, init_cfg: Optional[dict] = None) -> None:
        super().__init__(init_cfg=init_cfg)
        self.out_channels = out_channels
        self.layer = nn.Linear(in_channels, out_channels, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_channels)`` to ``(B, out_channels)``."""
        return self.layer(x)


@MODELS.register_module()
class HintRegressor(Projector):
    """FitNet's regressor: a 1 x 1 convolution to the teacher's width, as in OFA-KD's and RSD's releases.

    Args:
        in_channels (int): Width of the student's map.
        out_channels (int): Width of the teacher's map.
        init_cfg (dict, optional): Defaults to Kaiming normal initialization.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        init_cfg: Optional[dict] = dict(type='Kaiming', layer='Conv2d', mode='fan_out', nonlinearity='relu'),
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.out_channels = out_channels
        self.layer = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, out_channels, H, W)``."""
        return self.layer(x)


@MODELS.register_module()
class OFAProjector(Projector):
    """A stage branch of OFA-KD (arXiv 2310.19444, section 3.2), specific to the student's architecture.

    For a feature map: ``4 - stage`` blocks of separable convolutions of stride 2, each doubling the width, the last one
    to the larger of the two embedding widths (stage 4: a 1 x 1 convolution), and global average pooling. For tokens:
    patch merging down to ``grid`` x ``grid``, ``max(4 - stage, 1)`` transformer blocks of the student's embedding
    width, and the class token, or else the average. Both end in a linear layer to the width of the teacher's tap: the
    classes for OFA, the teacher's embedding for RSD on stages.

    Args:
        in_channels (int): Width of the student's stage.
        out_channels (int): Width of the teacher's tap.
        stage (int): 1 to 4.
        form (Form): How positions are laid out in the stage.
        student_width (int): Width of the student's embedding.
        teacher_width (int): Width of the teacher's embedding.
        grid (int): Side of the grid that tokens are merged to. Defaults to 7, the authors' release (at 224 pixels).
        num_heads (int): Heads of the transformer blocks. Defaults to 4, likewise.
        init_cfg (dict, optional): Defaults to the release's: Kaiming normal for convolutions, truncated normal (0.02)
            for linear layers.

    Raises:
        ValueError: If an option does not fit.
    """

    inferred = ('in_channels', 'out_channels', 'form', 'student_width', 'teacher_width')

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stage: int,
        form: Any,
        student_width: Optional[int],
        teacher_width: Optional[int],
        grid: int = 7,
        num_heads: int = 4,
        init_cfg: Any = (
            dict(type='Kaiming', layer='Conv2d', mode='fan_out', nonlinearity='relu'),
            dict(type='TruncNormal', layer='Linear', std=0.02),
        ),
    ) -> None:
        super().__init__(init_cfg=list(init_cfg) if isinstance(init_cfg, tuple) else init_cfg)
        if stage not in (1, 2, 3, 4):
            raise ValueError(f'OFAProjector: stage is 1, 2, 3 or 4, received {stage!r}.')
        if form is None:
            raise ValueError("OFAProjector: it reads a stage of the student: student_tap='stage1', for example.")
        if student_width is None or teacher_width is None:
            raise ValueError('OFAProjector: the embedding widths are unknown; set student_width and teacher_width.')
        self.form = form
        self.out_channels = out_channels
        if form.is_map:
            width = max(student_width, teacher_width)
            self.layers = nn.Sequential(
                *_downsampling(in_channels, width, stage), nn.AdaptiveAvgPool2d(1), nn.Flatten()
            )
        else:
            width = student_width
            if width % num_heads:
                raise ValueError(
                    f"OFAProjector: num_heads={num_heads} does not divide the width {width} of the student's embedding."
                )
            merges = max(int(math.log2(min(form.grid) / grid)), 0)
            widths = [in_channels] + [width] * merges
            self.merging = nn.ModuleList(
                PatchMerging(widths[i], width, activate=i == 0 or i < merges - 1) for i in range(merges)
            )
            # Without a merge nothing brings a stage to the width of the blocks.
            self.widen = nn.Linear(in_channels, width) if not merges and in_channels != width else nn.Identity()
            self.blocks = nn.Sequential(
                *(
                    TransformerEncoderLayer(width, num_heads, 4 * width, qkv_bias=False)
                    for _ in range(max(4 - stage, 1))
                )
            )
        self.head = nn.Linear(width, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_channels, H, W)`` or tokens ``(B, prefix + L, in_channels)`` to ``(B, out_channels)``."""
        if self.form.is_map:
            return self.head(self.layers(x))
        prefix = x[:, : self.form.prefix]
        if len(self.merging):
            grid = self.form.to_map(x)
            for layer in self.merging:
                grid = layer(grid)
            patches = grid.flatten(2).transpose(1, 2)
            if self.form.prefix and prefix.shape[2] != patches.shape[2]:
                raise ValueError(
                    f'OFAProjector: a class token of {prefix.shape[2]} channels beside {patches.shape[2]} merged ones.'
                )
            x = torch.cat([prefix, patches], dim=1)
        x = self.blocks(self.widen(x))
        return self.head(x[:, 0] if self.form.prefix else x.mean(dim=1))


class PatchMerging(BaseModule):
    """Merge 2 x 2 positions of a map into one: LayerNorm, a linear layer, and GELU if ``activate``."""

    def __init__(self, in_channels: int, out_channels: int, activate: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * in_channels)
        self.reduction = nn.Linear(4 * in_channels, out_channels, bias=False)
        self.act = nn.GELU() if activate else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, out_channels, H / 2, W / 2)``, rounded up."""
        x = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))
        x = F.pixel_unshuffle(x, 2).permute(0, 2, 3, 1)
        return self.act(self.reduction(self.norm(x))).permute(0, 3, 1, 2)


def _downsampling(in_channels: int, out_channels: int, stage: int) -> List[nn.Module]:
    if stage == 4:
        return [nn.Conv2d(in_channels, out_channels, 1)]
    widths = [in_channels * 2**i for i in range(4 - stage)] + [out_channels]
    return [_separable(a, b) for a, b in zip(widths, widths[1:])]


def _separable(in_channels: int, out_channels: int) -> nn.Sequential:
    """Build two separable 3 x 3 convolutions, the first of stride 2."""
    layers: List[nn.Module] = []
    for stride, width in ((2, in_channels), (1, out_channels)):
        layers += [
            nn.Conv2d(in_channels, in_channels, 3, stride, 1, groups=in_channels, bias=False),
            nn.Conv2d(in_channels, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)
