# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Zhang, Liu, Ran, Ma: "Cross-Architecture Distillation Made Simple with Redundancy Suppression" (RSD), ICCV 2025,
arXiv 2507.21844."""

from typing import Dict, Tuple, Union

import torch.distributed as dist
from mmengine.registry import MODELS
from torch import Tensor

from rsd_mm.utils.checks import check_number

from .base import DistillLoss, check_pair, in_full_precision
from .cross_correlation import invariance_and_decorrelation, standardize, synchronize


@in_full_precision
def rsd_loss_parts(
    s_feature: Tensor, t_feature: Tensor, eps: float = 1e-5, sync: bool = False
) -> Tuple[Tensor, Tensor]:
    r"""The two parts of RSD's objective, unweighted.

    With :math:`a, b` the features of student and teacher standardized over the batch
    (:func:`~rsd_mm.models.losses.standardize`) and :math:`P = b^T a / B` their cross-correlation matrix (``D x D``),

    .. math::
        \text{invariance} = \sum_i (P_{ii} - 1)^2, \qquad
        \text{decorrelation} = \sum_{i \ne j} P_{ij}^2 .

    Both are sums, so they grow with ``D``. Statistics are computed in float32 (float64 for float64 input), also for
    half precision input and under autocast. Inputs are not changed.

    Each process uses its own batch, as in the authors' release, unless ``sync``: then the value is that of all their
    samples together, the same on every process, and the mean of the gradients over processes, which DDP computes, is
    that of one process with the whole batch. Batches may differ in size.

    Args:
        s_feature (Tensor): Projected student embedding, ``(B, D)``.
        t_feature (Tensor): Teacher embedding, ``(B, D)``; no gradient.
        eps (float): Added to the standard deviation. Defaults to 1e-5, the authors' release.
        sync (bool): Use the batches of all processes; without a process group it has no effect. Defaults to False, the
            authors' release.

    Returns:
        Tuple[Tensor, Tensor]: ``(invariance, decorrelation)``, scalars.

    Raises:
        ValueError: If the shapes are not equal and ``(B, D)``, if ``B < 2``, or if ``eps`` is not positive.
    """
    hint = (
        " If the widths differ, project the student's feature with RSDProjector; if a feature has more dimensions, "
        'pool it first.'
    )
    check_pair('RSD', s_feature, t_feature, batch=2, hint=hint)
    _check_eps(eps)
    t_feature, count = t_feature.detach(), None
    if sync and dist.is_initialized():
        s_feature, t_feature, count = synchronize(s_feature, t_feature)
    a, b = standardize(s_feature, eps, count), standardize(t_feature, eps, count)
    return invariance_and_decorrelation(a, b, count)


def rsd_loss(
    s_feature: Tensor, t_feature: Tensor, kappa: float = 0.01, eps: float = 1e-5, sync: bool = False
) -> Tensor:
    r"""Return RSD's loss, unweighted, a scalar.

    .. math::
        L_{RSD} = \sum_i (P_{ii} - 1)^2 + \kappa \sum_{i \ne j} P_{ij}^2

    See :func:`rsd_loss_parts` for :math:`P`, precision, behaviour across processes and errors.

    Args:
        kappa (float): Weight of the decorrelation, >= 0. Defaults to 0.01, the paper. Independent features already have
            a decorrelation of about ``D (D - 1) / (B - 1)``, so what matters is ``kappa * D^2 / B``.
        s_feature, t_feature, eps, sync: See :func:`rsd_loss_parts`.
    """
    _check_kappa(kappa)
    invariance, decorrelation = rsd_loss_parts(s_feature, t_feature, eps, sync)
    return invariance + kappa * decorrelation


@MODELS.register_module()
class RSDLoss(DistillLoss):
    """:func:`rsd_loss` as a registered module.

    The student's feature must have the teacher's width: put an :class:`~rsd_mm.RSDProjector` before it.

    Args:
        loss_weight (float): lambda of the paper. Defaults to 0.1, the paper.
        kappa (float): Weight of the decorrelation. Defaults to 0.01, the paper.
        eps (float): Added to the standard deviation. Defaults to 1e-5, the authors' release.
        sync (bool): Use the batches of all processes. Defaults to False, the authors' release.

    Raises:
        ValueError: If ``kappa`` or ``loss_weight`` is negative or ``eps`` is not positive.
    """

    takes = ('return_parts',)

    def __init__(self, loss_weight: float = 0.1, kappa: float = 0.01, eps: float = 1e-5, sync: bool = False) -> None:
        _check_kappa(kappa)
        _check_eps(eps)
        super().__init__(loss_weight, kappa=kappa, eps=eps, sync=sync)

    def forward(
        self, s_feature: Tensor, t_feature: Tensor, return_parts: bool = False
    ) -> Union[Tensor, Tuple[Tensor, Dict[str, Tensor]]]:
        """Return the weighted loss of embeddings ``(B, D)``.

        With ``return_parts`` also return ``dict(invariance=..., decorrelation=...)``, unweighted and detached.
        """
        invariance, decorrelation = rsd_loss_parts(s_feature, t_feature, self.eps, self.sync)
        loss = self.loss_weight * (invariance + self.kappa * decorrelation)
        if not return_parts:
            return loss
        return loss, dict(invariance=invariance.detach(), decorrelation=decorrelation.detach())


def _check_kappa(kappa: float) -> None:
    check_number('RSD: kappa, the weight of the decorrelation,', kappa, hint=' The paper uses 0.01.')


def _check_eps(eps: float) -> None:
    check_number(
        'RSD: eps, added to the standard deviation,', eps, positive=True, hint=" The authors' release uses 1e-5."
    )
