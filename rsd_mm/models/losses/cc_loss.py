# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Peng, Jin, Liu, Li, Wu, Liu, Zhou, Zhang: "Correlation Congruence for Knowledge Distillation" (CC), ICCV 2019,
arXiv 1904.01802."""

from mmengine.registry import MODELS
from torch import Tensor

from .base import DistillLoss, check_pair, in_full_precision


@in_full_precision
def cc_loss(s_feature: Tensor, t_feature: Tensor) -> Tensor:
    r"""Return the loss of correlation congruence as in the authors' code, a scalar.

    .. math::
        L = \frac{1}{B - 1} \sum_{b=1}^{B-1} \big\langle |s_b - t_b|, |s_{b+1} - t_{b+1}| \big\rangle

    The paper compares kernel matrices over the batch. The code that its authors gave to others, with which OFA-KD and
    RSD compare, multiplies the deviations of neighbouring samples, as here. Each process uses its own batch.

    Args:
        s_feature (Tensor): Projected student embedding, ``(B, D)``, ``B >= 2``.
        t_feature (Tensor): Projected teacher embedding, ``(B, D)``; its projector is trained too, so it gets a
            gradient.

    Raises:
        ValueError: If the shapes differ or ``B < 2``.
    """
    check_pair('CC', s_feature, t_feature, batch=2)
    deviation = (s_feature - t_feature).abs()
    return (deviation[:-1] * deviation[1:]).sum(dim=1).mean()


@MODELS.register_module()
class CCLoss(DistillLoss):
    """:func:`cc_loss` as a registered module, times ``loss_weight`` (0.02, OFA-KD's and RSD's releases)."""

    def __init__(self, loss_weight: float = 0.02) -> None:
        super().__init__(loss_weight)

    def forward(self, s_feature: Tensor, t_feature: Tensor) -> Tensor:
        """Return the weighted loss of embeddings ``(B, D)``."""
        return self.loss_weight * cc_loss(s_feature, t_feature)
