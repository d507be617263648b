# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Romero, Ballas, Kahou, Chassang, Gatta, Bengio: "FitNets: Hints for Thin Deep Nets", ICLR 2015, arXiv 1412.6550."""

import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor

from .base import DistillLoss, check_pair, in_full_precision


@in_full_precision
def hint_loss(s_feature: Tensor, t_feature: Tensor) -> Tensor:
    r"""Return FitNet's hint, the mean squared difference of two feature maps, a scalar.

    .. math::
        L = \frac{1}{B C H W} \, \| r(F^S) - F^T \|^2

    with :math:`r` a regressor to the teacher's width (paper, equation 3). If the maps differ in size, as between
    architectures, the finer one is averaged over the cells of the coarser one. Each process uses its own batch.

    Args:
        s_feature (Tensor): Regressed student map, ``(B, C, H_s, W_s)``.
        t_feature (Tensor): Teacher map, ``(B, C, H_t, W_t)``; no gradient.

    Raises:
        ValueError: If the batches or widths differ.
    """
    t_feature = t_feature.detach()
    if s_feature.ndim == t_feature.ndim == 4:
        size = min(s_feature.shape[2], t_feature.shape[2]), min(s_feature.shape[3], t_feature.shape[3])
        s_feature, t_feature = (F.adaptive_avg_pool2d(feature, size) for feature in (s_feature, t_feature))
    check_pair("FitNet's hint", s_feature, t_feature, dims=4)
    return F.mse_loss(s_feature, t_feature)


@MODELS.register_module()
class HintLoss(DistillLoss):
    """:func:`hint_loss` as a registered module, times ``loss_weight`` (1, OFA-KD's and RSD's releases)."""

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight)

    def forward(self, s_feature: Tensor, t_feature: Tensor) -> Tensor:
        """Return the weighted loss of maps ``(B, C, H, W)``."""
        return self.loss_weight * hint_loss(s_feature, t_feature)
