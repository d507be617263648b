# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Park, Kim, Lu, Cho: "Relational Knowledge Distillation" (RKD), CVPR 2019, arXiv 1904.05068."""

from typing import Tuple

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor

from .base import DistillLoss, check_pair, in_full_precision


def relations(feature: Tensor) -> Tuple[Tensor, Tensor]:
    """Return distances of samples over their mean, ``(B, B)``, and cosines of the angles in triples, ``(B, B, B)``."""
    edges = feature[:, None] - feature[None]
    lengths = torch.linalg.vector_norm(edges, dim=2)
    # Equal samples have no direction; dividing by 1 keeps their edge at zero with a gradient of ordinary size.
    directions = edges / lengths.masked_fill(lengths == 0, 1.0)[..., None]
    different = lengths > 0
    mean = lengths.sum() / different.sum().clamp_min(1)
    distances = lengths / mean.masked_fill(mean == 0, 1.0)
    return distances, directions @ directions.transpose(1, 2)


@in_full_precision
def rkd_loss(s_feature: Tensor, t_feature: Tensor, distance_weight: float = 25.0, angle_weight: float = 50.0) -> Tensor:
    r"""Return the loss of relational knowledge distillation, a scalar.

    .. math::
        L = w_d \, \frac{1}{B^2} \sum_{ij} \ell_\delta(d^S_{ij}, d^T_{ij}) +
            w_a \, \frac{1}{B^3} \sum_{ijk} \ell_\delta(\cos^S_{ijk}, \cos^T_{ijk})

    with :math:`d` the distances of samples over their mean, :math:`\cos_{ijk}` the cosine of the angle that two samples
    form with a third, and :math:`\ell_\delta` Huber's loss of width 1 (paper, equations 5 to 9). Widths may differ.
    Each process uses its own batch. Memory grows with ``B^2 D`` and ``B^3``.

    Args:
        s_feature (Tensor): Student embedding, ``(B, D_s)``, ``B >= 2``.
        t_feature (Tensor): Teacher embedding, ``(B, D_t)``; no gradient.
        distance_weight (float): :math:`w_d`. Defaults to 25, RSD's release.
        angle_weight (float): :math:`w_a`. Defaults to 50, RSD's release.

    Raises:
        ValueError: If the batches differ or ``B < 2``.
    """
    check_pair('RKD', s_feature, t_feature, batch=2, equal_widths=False)
    (distances_s, angles_s), (distances_t, angles_t) = relations(s_feature), relations(t_feature.detach())
    distance, angle = F.smooth_l1_loss(distances_s, distances_t), F.smooth_l1_loss(angles_s, angles_t)
    return distance_weight * distance + angle_weight * angle


@MODELS.register_module()
class RKDLoss(DistillLoss):
    """:func:`rkd_loss` as a registered module, times ``loss_weight``. Relations need no projector."""

    equal_widths = False

    def __init__(self, distance_weight: float = 25.0, angle_weight: float = 50.0, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight, distance_weight=distance_weight, angle_weight=angle_weight)

    def forward(self, s_feature: Tensor, t_feature: Tensor) -> Tensor:
        """Return the weighted loss of embeddings ``(B, D_s)`` and ``(B, D_t)``."""
        return self.loss_weight * rkd_loss(s_feature, t_feature, self.distance_weight, self.angle_weight)
