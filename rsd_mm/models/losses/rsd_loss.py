# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""The loss of Redundancy Suppression Distillation (RSD).

Zhang, Liu, Ran, Ma: "Cross-Architecture Distillation Made Simple with
Redundancy Suppression", ICCV 2025, arXiv 2507.21844.
"""

import math
from typing import Dict, Tuple, Union

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn


def standardize(feature: Tensor, eps: float = 1e-5) -> Tensor:
    """Standardize every feature over the batch: ``(x - mean) / (std + eps)``.

    The standard deviation is the biased one, and ``eps`` is added to it rather
    than to the variance, as in the authors' release. A constant feature becomes
    exactly zero, with a finite gradient.

    Args:
        feature (Tensor): Shape ``(B, D)``, floating point. Not changed.
        eps (float): Added to the standard deviation.

    Returns:
        Tensor: Shape ``(B, D)``.
    """
    # Subtracting a constant leaves the result as it is, and makes a constant column exactly zero
    # whatever its magnitude; the mean alone leaves a rounding error that may exceed eps.
    x = feature - feature[:1].detach()
    x = x - x.mean(dim=0)
    # Squares of large values overflow, so they are taken of x / max|x|. The norm's gradient at zero
    # is defined (zero), that of a square root is not.
    peak = x.detach().abs().amax(dim=0).clamp_min(torch.finfo(x.dtype).tiny)
    std = peak * torch.linalg.vector_norm(x / peak, dim=0) / math.sqrt(len(x))
    return x / (std + eps)


def rsd_loss_parts(s_feature: Tensor, t_feature: Tensor, eps: float = 1e-5) -> Tuple[Tensor, Tensor]:
    r"""The two parts of RSD's objective, unweighted.

    With :math:`a, b` the features of student and teacher standardized over the
    batch (:func:`standardize`) and :math:`P = b^T a / B` their cross-correlation
    matrix (``D x D``),

    .. math::
        \text{invariance} = \sum_i (P_{ii} - 1)^2, \qquad
        \text{decorrelation} = \sum_{i \ne j} P_{ij}^2 .

    Both are sums, so they grow with ``D``. For a batch smaller than the
    embedding ``P`` is never built: :math:`\sum_{ij} P_{ij}^2 = \langle a,\,
    (b b^T) a \rangle / B^2` needs ``B x B`` only and is exact.

    Statistics are computed in float32 (float64 for float64 input), also for half
    precision input and under autocast. The teacher's side gets no gradient, and
    the inputs are not changed. With several processes each uses its own batch,
    as the authors' release does.

    Args:
        s_feature (Tensor): The student's (projected) embedding, ``(B, D)``.
        t_feature (Tensor): The teacher's embedding, ``(B, D)``.
        eps (float): Added to the standard deviation. Defaults to 1e-5, the
            authors' release.

    Returns:
        Tuple[Tensor, Tensor]: ``(invariance, decorrelation)``, scalars.

    Raises:
        ValueError: If the shapes are not equal and ``(B, D)``, if ``B < 2``, if
            ``eps`` is not positive, or, on a CPU, if a feature holds NaN or inf.
            (On an accelerator that last check would stall the device; there
            :class:`~rsd_mm.Distiller` makes it one step late.)
    """
    _check_features(s_feature, t_feature)
    _check_eps(eps)
    dtype = torch.promote_types(torch.promote_types(s_feature.dtype, t_feature.dtype), torch.float32)
    with torch.autocast(s_feature.device.type, enabled=False):
        a = standardize(s_feature.to(dtype), eps)
        b = standardize(t_feature.detach().to(dtype), eps)
        batch, dim = a.shape
        diagonal = (a * b).sum(dim=0) / batch
        invariance = (diagonal - 1).square().sum()
        if _batch_form_is_cheaper(batch, dim):
            every = (a * (b @ b.T @ a)).sum() / batch**2
            decorrelation = every - diagonal.square().sum()
        else:
            correlation = b.T @ a / batch
            decorrelation = (correlation - torch.diag(correlation.diagonal())).square().sum()
    if a.device.type == 'cpu' and not torch.isfinite(invariance + decorrelation):
        _report_non_finite(s_feature=s_feature, t_feature=t_feature)
    return invariance, decorrelation


def rsd_loss(s_feature: Tensor, t_feature: Tensor, kappa: float = 0.01, eps: float = 1e-5) -> Tensor:
    r"""RSD's loss, unweighted: invariance + ``kappa`` * decorrelation.

    .. math::
        L_{RSD} = \sum_i (P_{ii} - 1)^2 + \kappa \sum_{i \ne j} P_{ij}^2

    See :func:`rsd_loss_parts` for :math:`P`, the precision, the behaviour across
    processes and the errors.

    Args:
        s_feature (Tensor): The student's (projected) embedding, ``(B, D)``.
        t_feature (Tensor): The teacher's embedding, ``(B, D)``; gets no gradient.
        kappa (float): Weight of the decorrelation, not negative. Defaults to
            0.01, the paper. Independent features already give a decorrelation of
            about ``D (D - 1) / (B - 1)``, so what counts is ``kappa * D^2 / B``.
        eps (float): Added to the standard deviation. Defaults to 1e-5, the
            authors' release.

    Returns:
        Tensor: A scalar.
    """
    _check_kappa(kappa)
    invariance, decorrelation = rsd_loss_parts(s_feature, t_feature, eps)
    return invariance + kappa * decorrelation


@MODELS.register_module()
class RSDLoss(nn.Module):
    """:func:`rsd_loss` as a registered module, times ``loss_weight``.

    The student's feature must have the teacher's width: put an
    :class:`~rsd_mm.RSDProjector` before it.

    Args:
        loss_weight (float): lambda of the paper. Defaults to 0.1, the paper.
        kappa (float): Weight of the decorrelation. Defaults to 0.01, the paper.
        eps (float): Added to the standard deviation. Defaults to 1e-5, the
            authors' release.

    Raises:
        ValueError: If ``kappa`` or ``loss_weight`` is negative or ``eps`` is not
            positive.
    """

    def __init__(self, loss_weight: float = 0.1, kappa: float = 0.01, eps: float = 1e-5) -> None:
        super().__init__()
        if not 0 <= loss_weight < math.inf:
            raise ValueError(f'RSDLoss: loss_weight must be a number >= 0, received {loss_weight!r}.')
        _check_kappa(kappa)
        _check_eps(eps)
        self.loss_weight = loss_weight
        self.kappa = kappa
        self.eps = eps

    def forward(
        self, s_feature: Tensor, t_feature: Tensor, return_parts: bool = False
    ) -> Union[Tensor, Tuple[Tensor, Dict[str, Tensor]]]:
        """The weighted loss.

        Args:
            s_feature (Tensor): The student's (projected) embedding, ``(B, D)``.
            t_feature (Tensor): The teacher's embedding, ``(B, D)``.
            return_parts (bool): Also return the unweighted parts, detached, as
                values for a log. Defaults to False.

        Returns:
            Tensor | Tuple[Tensor, Dict[str, Tensor]]: The scalar loss, and with
            ``return_parts`` also ``dict(invariance=..., decorrelation=...)``.
        """
        invariance, decorrelation = rsd_loss_parts(s_feature, t_feature, self.eps)
        loss = self.loss_weight * (invariance + self.kappa * decorrelation)
        if not return_parts:
            return loss
        return loss, dict(invariance=invariance.detach(), decorrelation=decorrelation.detach())

    def extra_repr(self) -> str:
        return f'loss_weight={self.loss_weight}, kappa={self.kappa}, eps={self.eps}'


def _batch_form_is_cheaper(batch: int, dim: int) -> bool:
    # Multiplications, forward and backward: 3 B^2 D against 2 B D^2, and the D x D form also passes over
    # its D^2 numbers several times. Measured on a CPU at D = 768, the two meet near B = 5/6 D.
    return 6 * batch < 5 * dim


def _check_features(s_feature: Tensor, t_feature: Tensor) -> None:
    if s_feature.ndim != 2 or s_feature.shape != t_feature.shape:
        raise ValueError(
            'RSD compares two features of one shape (B, D); received '
            f's_feature {tuple(s_feature.shape)} and t_feature {tuple(t_feature.shape)}. '
            "If the widths differ, project the student's feature with RSDProjector; "
            'if a feature has more dimensions, pool it first.'
        )
    if len(s_feature) < 2:
        raise ValueError(
            f'RSD correlates features over the batch, so a process needs at least 2 samples a step; '
            f'received {len(s_feature)}. If this is the last batch of an epoch, set drop_last=True in '
            'train_dataloader; otherwise raise its batch_size.'
        )


def _check_kappa(kappa: float) -> None:
    if not 0 <= kappa < math.inf:
        raise ValueError(
            f'RSD: kappa, the weight of the decorrelation, must be a number >= 0, received {kappa!r}. '
            'The paper uses 0.01.'
        )


def _check_eps(eps: float) -> None:
    if not 0 < eps < math.inf:
        raise ValueError(
            f'RSD: eps, added to the standard deviation, must be a number > 0, received {eps!r}. '
            "The authors' release uses 1e-5."
        )


def _report_non_finite(**features: Tensor) -> None:
    sides = dict(s_feature='student', t_feature='teacher')
    for name, feature in features.items():
        bad = int((~torch.isfinite(feature)).sum())
        if bad:
            raise ValueError(
                f"RSD: the {sides[name]}'s feature ({name}) holds NaN or inf in {bad} of "
                f'{feature.numel()} values. Lower the learning rate or the loss weight if it is the '
                "student's; check the weights and the input normalization if it is the teacher's."
            )
