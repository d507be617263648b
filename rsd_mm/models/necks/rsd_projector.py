# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""RSD's projector, the architecture-agnostic decoupling (AAD) of the paper."""

from typing import Optional, Tuple, Union

from mmengine.registry import MODELS
from torch import Tensor, nn

from rsd_mm.utils.checks import check_batch_size

from .base import Projector


@MODELS.register_module()
class RSDProjector(Projector):
    """Architecture-agnostic decoupling (AAD), arXiv 2507.21844.

    Maps the student's embedding to the teacher's width, so that the objective acts on the projection and leaves the
    student's own representation free::

        Linear(in, g * in, no bias) - BatchNorm1d - GELU - Linear(g * in, out, no bias)

    Linear weights are drawn from a normal distribution of standard deviation 0.02, truncated at +-2 (absolute), as in
    the authors' release. As there, BatchNorm uses each process's own batch, whatever ``sync`` of the loss is;
    ``sync_bn='torch'`` in a config synchronizes this one and the student's (on GPUs).

    Args:
        in_channels (int): Width of the student's embedding.
        out_channels (int): Width of the teacher's embedding.
        expansion (float): g, the hidden width over ``in_channels``. Defaults to 2, the authors' release.
        init_cfg (dict, optional): Another initialization. Defaults to None.

    Raises:
        ValueError: If a width or ``expansion`` is not positive.
    """

    def __init__(
        self, in_channels: int, out_channels: int, expansion: float = 2, init_cfg: Optional[dict] = None
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        for name, value in dict(in_channels=in_channels, out_channels=out_channels).items():
            if not isinstance(value, int) or value <= 0:
                raise ValueError(f'RSDProjector: {name} must be a positive integer, received {value!r}.')
        if not expansion > 0 or round(in_channels * expansion) < 1:
            raise ValueError(
                'RSDProjector: expansion, the hidden width over in_channels, must be a number > 0 that '
                f'leaves at least one hidden unit, received {expansion!r} with in_channels={in_channels}. '
                "The authors' release uses 2."
            )
        hidden = round(in_channels * expansion)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.expansion = expansion
        self.layers = nn.Sequential(
            nn.Linear(in_channels, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.GELU(),
            nn.Linear(hidden, out_channels, bias=False),
        )
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02, a=-2.0, b=2.0)

    def forward(self, inputs: Union[Tensor, Tuple[Tensor, ...]]) -> Union[Tensor, Tuple[Tensor]]:
        """Map ``(B, in_channels)`` to ``(B, out_channels)``.

        Of a tuple of stages, as MMPretrain's necks receive, it projects the last, and returns a tuple of one.

        Raises:
            ValueError: If the shape does not fit, or for one sample in training.
        """
        x = inputs[-1] if isinstance(inputs, (tuple, list)) else inputs
        if x.ndim != 2 or x.shape[1] != self.in_channels:
            raise ValueError(
                f'RSDProjector: expected an embedding of shape (B, {self.in_channels}), received {tuple(x.shape)}.'
            )
        if self.training:
            check_batch_size('RSDProjector: its BatchNorm needs', len(x))
        x = self.layers(x)
        return (x,) if isinstance(inputs, (tuple, list)) else x
