# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Hinton, Vinyals, Dean: "Distilling the Knowledge in a Neural Network", arXiv 1503.02531."""

from mmengine.registry import MODELS
from torch import Tensor

from .base import DistillLoss, check_pair, in_full_precision


def kl_rows(preds_S: Tensor, preds_T: Tensor) -> Tensor:
    """Return ``KL(softmax(preds_T) || softmax(preds_S))`` of each row, ``(...,)``, without gradient for ``preds_T``."""
    log_s, log_t = preds_S.log_softmax(dim=-1), preds_T.detach().log_softmax(dim=-1)
    return (log_t.exp() * (log_t - log_s)).sum(dim=-1)


@in_full_precision
def kd_loss(preds_S: Tensor, preds_T: Tensor, tau: float = 1.0) -> Tensor:
    r"""Return the loss of knowledge distillation, a scalar.

    .. math::
        L = \tau^2 \, \frac{1}{B} \sum_b KL\big(\text{softmax}(z^T_b / \tau) \,\|\, \text{softmax}(z^S_b / \tau)\big)

    Each process uses its own batch.

    Args:
        preds_S (Tensor): Student logits, ``(B, C)``.
        preds_T (Tensor): Teacher logits, ``(B, C)``; no gradient.
        tau (float): Temperature. Defaults to 1, OFA-KD's and RSD's releases.

    Raises:
        ValueError: If the shapes differ.
    """
    check_pair('KD', preds_S, preds_T)
    return tau**2 * kl_rows(preds_S / tau, preds_T / tau).mean()


@MODELS.register_module()
class KDLoss(DistillLoss):
    """:func:`kd_loss` as a registered module, times ``loss_weight``."""

    def __init__(self, tau: float = 1.0, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight, tau=tau)

    def forward(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Return the weighted loss of logits ``(B, C)``."""
        return self.loss_weight * kd_loss(preds_S, preds_T, self.tau)
