# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Hao, Guo, Han, Tang, Hu, Wang, Xu: "One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge
Distillation" (OFA-KD), NeurIPS 2023, arXiv 2310.19444."""

import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor

from .base import DistillLoss, check_pair, hard_labels, in_full_precision


@in_full_precision
def ofa_loss(preds_S: Tensor, preds_T: Tensor, gt_labels: Tensor, eps: float = 1.0, tau: float = 1.0) -> Tensor:
    r"""Return OFA's loss, the cross entropy with a teacher whose target class is enhanced, a scalar.

    .. math::
        L = - \frac1B \sum_b \sum_c \big[ (p^T + y)^{\epsilon} - y \big]_{b,c} \log p^S_{b,c}

    with :math:`p` the softmax of the logits over ``tau`` and :math:`y` the one-hot target (paper, equation 7, which
    calls the exponent gamma). With ``eps = 1`` it is plain cross entropy with the teacher. Each process uses its own
    batch.

    Args:
        preds_S (Tensor): Logits of the student or of one of its branches, ``(B, C)``.
        preds_T (Tensor): Teacher logits, ``(B, C)``; no gradient.
        gt_labels (Tensor): Classes ``(B,)``, or scores ``(B, C)``, of which the largest is the target, as in OFA-KD's
            release.
        eps (float): The exponent, at least 1 in the paper. Defaults to 1; the releases use 1 to 1.5, depending on the
            pair.
        tau (float): Temperature. Defaults to 1, OFA-KD's and RSD's releases.

    Raises:
        ValueError: If the shapes do not fit.
    """
    check_pair("OFA's loss", preds_S, preds_T)
    target = F.one_hot(hard_labels(gt_labels, len(preds_S)), preds_S.shape[1])
    enhanced = ((preds_T.detach() / tau).softmax(dim=1) + target) ** eps - target
    return -(enhanced * (preds_S / tau).log_softmax(dim=1)).sum(dim=1).mean()


@MODELS.register_module()
class OFALoss(DistillLoss):
    """:func:`ofa_loss` as a registered module, times ``loss_weight``."""

    takes = ('gt_labels',)

    def __init__(self, eps: float = 1.0, tau: float = 1.0, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight, eps=eps, tau=tau)

    def forward(self, preds_S: Tensor, preds_T: Tensor, gt_labels: Tensor) -> Tensor:
        """Return the weighted loss of logits ``(B, C)`` and targets ``(B,)`` or ``(B, C)``."""
        return self.loss_weight * ofa_loss(preds_S, preds_T, gt_labels, self.eps, self.tau)
