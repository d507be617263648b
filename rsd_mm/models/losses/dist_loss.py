# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Huang, You, Wang, Qian, Xu: "Knowledge Distillation from A Stronger Teacher" (DIST), NeurIPS 2022, arXiv
2205.10536."""

import torch
from mmengine.registry import MODELS
from torch import Tensor

from .base import DistillLoss, check_pair, in_full_precision


def pearson_rows(x: Tensor, y: Tensor, eps: float = 1e-8) -> Tensor:
    """Return Pearson's correlation of each row of ``x`` with that of ``y``, ``(rows,)``.

    It is 0, without gradient, for rows whose norms multiply to at most ``eps``. A student whose classifier starts from
    zeros has only such rows, and a gradient of ``1 / eps`` would ruin it in the first step.
    """
    x, y = x - x.mean(dim=1, keepdim=True), y - y.mean(dim=1, keepdim=True)
    norms = torch.linalg.vector_norm(x, dim=1) * torch.linalg.vector_norm(y, dim=1)
    constant = norms <= eps
    return ((x * y).sum(dim=1) / norms.masked_fill(constant, 1.0)).masked_fill(constant, 0.0)


@in_full_precision
def dist_loss(logits_S: Tensor, logits_T: Tensor, beta: float = 1.0, gamma: float = 1.0, tau: float = 1.0) -> Tensor:
    r"""Return the loss of DIST, which matches relations between classes and within a class, a scalar.

    .. math::
        L = \tau^2 \Big( \beta \big(1 - \tfrac1B \sum_b \rho(Y^S_b, Y^T_b)\big) +
            \gamma \big(1 - \tfrac1C \sum_c \rho(Y^S_{:,c}, Y^T_{:,c})\big) \Big)

    with :math:`Y` the softmax of the logits over ``tau`` and :math:`\rho` Pearson's correlation (paper, equations 6 to
    10). Each process uses its own batch.

    Args:
        logits_S (Tensor): Student logits, ``(B, C)``, ``B >= 2``.
        logits_T (Tensor): Teacher logits, ``(B, C)``; no gradient.
        beta (float): Weight of relations between classes. Defaults to 1, OFA-KD's and RSD's releases.
        gamma (float): Weight of relations within a class. Defaults to 1, likewise.
        tau (float): Temperature. Defaults to 1, likewise.

    Raises:
        ValueError: If the shapes differ or ``B < 2``.
    """
    check_pair('DIST', logits_S, logits_T, batch=2)
    y_s, y_t = (logits_S / tau).softmax(dim=1), (logits_T.detach() / tau).softmax(dim=1)
    between, within = pearson_rows(y_s, y_t), pearson_rows(y_s.T, y_t.T)
    return tau**2 * (beta * (1 - between.mean()) + gamma * (1 - within.mean()))


@MODELS.register_module()
class StrongerTeacherLoss(DistillLoss):
    """:func:`dist_loss` as a registered module, times ``loss_weight`` (mmrazor's ``DISTLoss`` has other options)."""

    def __init__(self, beta: float = 1.0, gamma: float = 1.0, tau: float = 1.0, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight, beta=beta, gamma=gamma, tau=tau)

    def forward(self, logits_S: Tensor, logits_T: Tensor) -> Tensor:
        """Return the weighted loss of logits ``(B, C)``."""
        return self.loss_weight * dist_loss(logits_S, logits_T, self.beta, self.gamma, self.tau)
