# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Zhao, Cui, Song, Qiu, Liang: "Decoupled Knowledge Distillation", CVPR 2022, arXiv 2203.08679."""

from typing import Tuple

import torch
from mmengine.registry import MODELS
from torch import Tensor

from .base import DistillLoss, check_pair, hard_labels, in_full_precision
from .kd_loss import kl_rows


def dkd_rows(preds_S: Tensor, preds_T: Tensor, labels: Tensor) -> Tuple[Tensor, Tensor]:
    """Return two divergences of each row, ``(B,)``: target against all other classes, and among the others."""
    batch, classes = preds_S.shape
    target = torch.zeros_like(preds_S, dtype=torch.bool).scatter_(1, labels[:, None], True)
    others = [preds[~target].view(batch, classes - 1) for preds in (preds_S, preds_T)]
    # A softmax over (z_target, log sum of the others) is (p_target, 1 - p_target), and never takes log(0).
    binary = [
        torch.stack([preds[target], rest.logsumexp(dim=1)], dim=1) for preds, rest in zip((preds_S, preds_T), others)
    ]
    return kl_rows(*binary), kl_rows(*others)


@in_full_precision
def dkd_loss(
    preds_S: Tensor, preds_T: Tensor, gt_labels: Tensor, alpha: float = 1.0, beta: float = 2.0, tau: float = 1.0
) -> Tensor:
    r"""Return the loss of decoupled knowledge distillation, a scalar.

    .. math::
        L = \tau^2 (\alpha \, KL(b^T \| b^S) + \beta \, KL(\hat p^T \| \hat p^S))

    with :math:`b` the probabilities of the target class and of all others together (TCKD), and :math:`\hat p` the
    softmax over the other classes (NCKD; paper, equations 5 and 7), averaged over the batch. Each process uses its own
    batch.

    Args:
        preds_S (Tensor): Student logits, ``(B, C)``.
        preds_T (Tensor): Teacher logits, ``(B, C)``; no gradient.
        gt_labels (Tensor): Classes ``(B,)``, or scores ``(B, C)``, of which the largest is the target, as in OFA-KD's
            and RSD's releases.
        alpha (float): Weight of TCKD. Defaults to 1, OFA-KD's and RSD's releases.
        beta (float): Weight of NCKD. Defaults to 2, likewise.
        tau (float): Temperature. Defaults to 1, likewise.

    Raises:
        ValueError: If the shapes do not fit.
    """
    check_pair('DKD', preds_S, preds_T)
    tckd, nckd = dkd_rows(preds_S / tau, preds_T / tau, hard_labels(gt_labels, len(preds_S)))
    return tau**2 * (alpha * tckd + beta * nckd).mean()


@MODELS.register_module()
class DecoupledKDLoss(DistillLoss):
    """:func:`dkd_loss` as a registered module, times ``loss_weight`` (mmrazor's ``DKDLoss`` has other defaults)."""

    takes = ('gt_labels',)

    def __init__(self, alpha: float = 1.0, beta: float = 2.0, tau: float = 1.0, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight, alpha=alpha, beta=beta, tau=tau)

    def forward(self, preds_S: Tensor, preds_T: Tensor, gt_labels: Tensor) -> Tensor:
        """Return the weighted loss of logits ``(B, C)`` and targets ``(B,)`` or ``(B, C)``."""
        return self.loss_weight * dkd_loss(preds_S, preds_T, gt_labels, self.alpha, self.beta, self.tau)
