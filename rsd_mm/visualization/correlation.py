# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""How far teacher and student agree: their cross-correlation, as numbers and as a picture."""

from typing import Dict

import numpy as np
import torch
from torch import Tensor

from rsd_mm.models.losses import standardize


def cross_correlation(s_feature: Tensor, t_feature: Tensor) -> Tensor:
    """RSD's matrix ``P = b^T a / B``, of which the loss makes the identity (see :func:`~rsd_mm.rsd_loss_parts`).

    Args:
        s_feature (Tensor): The student's (projected) embedding, ``(B, D)``.
        t_feature (Tensor): The teacher's embedding, ``(B, D)``.

    Returns:
        Tensor: ``(D, D)``, row i a feature of the teacher, column j one of the
        student; values from -1 to 1.
    """
    return standardize(t_feature.float()).T @ standardize(s_feature.float()) / len(s_feature)


def effective_rank(feature: Tensor) -> float:
    r"""In how many directions features vary: :math:`\exp(-\sum_i p_i \log p_i)`.

    :math:`p_i = \sigma_i / \sum_j \sigma_j`, of the singular values of the features,
    centred over the batch (Roy and Vetterli: "The effective rank", EUSIPCO 2007).
    From 1 to ``min(B - 1, D)``; features that do not vary have 0.

    Args:
        feature (Tensor): Shape ``(B, D)``.
    """
    values = torch.linalg.svdvals((feature - feature.mean(dim=0)).double())
    if not values.sum() > 0:
        return 0.0
    p = values / values.sum()
    return float(torch.exp(torch.special.entr(p).sum()))


def agreement(matrix: Tensor) -> Dict[str, float]:
    """The mean of a cross-correlation's diagonal (1 at best), and of its other entries' squares (0 at best)."""
    diagonal = matrix.diagonal()
    others = matrix.square().sum() - diagonal.square().sum()
    return dict(
        mean_diagonal=float(diagonal.mean()),
        mean_square_off_diagonal=float(others / max(matrix.numel() - len(diagonal), 1)),
    )


def draw_correlation(matrix: Tensor, title: str) -> np.ndarray:
    """A cross-correlation matrix as a picture.

    Args:
        matrix (Tensor): ``(D, D)``, from -1 to 1.
        title (str): What stands above it.

    Returns:
        np.ndarray: RGB, ``(H, W, 3)``, uint8.
    """
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
