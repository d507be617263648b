# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Wei, Luo, Luo: "Scaled Decoupled Distillation" (SDD), CVPR 2024, arXiv 2403.13512."""

import torch
from mmengine.registry import MODELS
from torch import Tensor

from .base import DistillLoss, check_pair, hard_labels, in_full_precision
from .kd_loss import kl_rows


@in_full_precision
def sdd_loss(
    preds_S: Tensor, preds_T: Tensor, gt_labels: Tensor, complementary: float = 2.0, tau: float = 1.0
) -> Tensor:
    r"""Return the loss of scale-decoupled distillation based on KD, a scalar.

    .. math::
        L = \frac{\tau^2}{B M} \sum_{b,m} w_{b,m} \,
            KL\big(\text{softmax}(z^T_{b,m} / \tau) \,\|\, \text{softmax}(z^S_{b,m} / \tau)\big)

    over the ``M`` regions of an image (the whole image, then the cells of finer grids). A region is consistent, with
    :math:`w = 1`, if the teacher is right about it exactly where it is right about the whole image; otherwise it is
    complementary. Each process uses its own batch.

    Args:
        preds_S (Tensor): Student logits of the regions, ``(B, M, C)``, the whole image first: a tap
            ``dict(type='ScaleLogits')``.
        preds_T (Tensor): Teacher logits, ``(B, M, C)``; no gradient.
        gt_labels (Tensor): Classes ``(B,)``, or scores ``(B, C)``, of which the largest is the target (the paper has
            no soft targets).
        complementary (float): :math:`w` of complementary regions. Defaults to 2, the authors' release.
        tau (float): Temperature. Defaults to 1, as the other losses on logits here; the authors' recipe for CIFAR-100
            at 32 pixels uses 4.

    Raises:
        ValueError: If the shapes do not fit.
    """
    check_pair('SDD', preds_S, preds_T, dims=3)
    labels = hard_labels(gt_labels, len(preds_S))
    right = preds_T.argmax(dim=2) == labels[:, None]
    weight = torch.where(right == right[:, :1], 1.0, complementary)
    return tau**2 * (weight * kl_rows(preds_S / tau, preds_T / tau)).mean()


@MODELS.register_module()
class SDDLoss(DistillLoss):
    """:func:`sdd_loss` as a registered module, times ``loss_weight``."""

    takes = ('gt_labels',)

    def __init__(self, complementary: float = 2.0, tau: float = 1.0, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight, complementary=complementary, tau=tau)

    def forward(self, preds_S: Tensor, preds_T: Tensor, gt_labels: Tensor) -> Tensor:
        """Return the weighted loss of logits ``(B, M, C)`` and targets ``(B,)`` or ``(B, C)``."""
        return self.loss_weight * sdd_loss(preds_S, preds_T, gt_labels, self.complementary, self.tau)
