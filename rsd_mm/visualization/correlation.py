# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""The cross-correlation of teacher and student, as numbers and as a picture."""

from typing import Dict

import numpy as np
import torch
from torch import Tensor

from rsd_mm.models.losses import standardize


def cross_correlation(s_feature: Tensor, t_feature: Tensor) -> Tensor:
    """Compute RSD's ``P = b^T a / B``, which the loss drives to the identity (see :func:`~rsd_mm.rsd_loss_parts`).

    Args:
        s_feature (Tensor): The student's (projected) embedding, ``(B, D)``.
        t_feature (Tensor): The teacher's embedding, ``(B, D)``.

    Returns:
        Tensor: ``(D, D)``, from -1 to 1; rows are the teacher's features, columns the student's.
    """
    return standardize(t_feature.float()).T @ standardize(s_feature.float()) / len(s_feature)


def effective_rank(feature: Tensor) -> float:
    r"""Compute the effective rank :math:`\exp(-\sum_i p_i \log p_i)` of features.

    :math:`p_i = \sigma_i / \sum_j \sigma_j`, with the singular values of the features centred over the batch (Roy and
    Vetterli: "The effective rank", EUSIPCO 2007). From 1 to ``min(B - 1, D)``; 0 for constant features.

    Args:
        feature (Tensor): Shape ``(B, D)``.
    """
    values = torch.linalg.svdvals((feature - feature.mean(dim=0)).double())
    if not values.sum() > 0:
        return 0.0
    p = values / values.sum()
    return float(torch.exp(torch.special.entr(p).sum()))


def agreement(matrix: Tensor) -> Dict[str, float]:
    """Return the mean of a cross-correlation's diagonal (1 is best) and the mean square of the rest (0 is best)."""
    diagonal = matrix.diagonal()
    others = matrix.square().sum() - diagonal.square().sum()
    return dict(
        mean_diagonal=float(diagonal.mean()),
        mean_square_off_diagonal=float(others / max(matrix.numel() - len(diagonal), 1)),
    )


def draw_correlation(matrix: Tensor, title: str) -> np.ndarray:
    """Draw a cross-correlation matrix ``(D, D)`` as an RGB image ``(H, W, 3)``, uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8, 4.2), dpi=150, layout='constrained')
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(matrix.cpu().numpy(), cmap='RdBu_r', vmin=-1, vmax=1, interpolation='nearest')
    axes.set(xlabel="student's feature (projected)", ylabel="teacher's feature")
    axes.set_title(title, fontsize=9)
    figure.colorbar(image, ax=axes, shrink=0.85, label='correlation over the batch')
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
