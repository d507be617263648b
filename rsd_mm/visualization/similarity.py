# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Centred kernel alignment (CKA) between the features of two networks.

Kornblith, Norouzi, Lee, Hinton: "Similarity of Neural Network Representations Revisited", ICML 2019, arXiv 1905.00414;
over minibatches as in Nguyen, Raghu, Kornblith: "Do Wide and Deep Networks Learn the Same Things?", ICLR 2021, arXiv
2010.15327.
"""

from typing import Hashable, Sequence

import numpy as np
import torch
from torch import Tensor


def unbiased_hsic(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741 (the literature's K and L)
    r"""Estimate the Hilbert-Schmidt independence criterion of two kernels without bias (Nguyen et al., equation 3).

    .. math::
        \frac{1}{n (n - 3)} \Big( tr(\tilde K \tilde L)
        + \frac{1^T \tilde K 1 \; 1^T \tilde L 1}{(n - 1)(n - 2)} - \frac{2}{n - 2} 1^T \tilde K \tilde L 1 \Big)

    where :math:`\tilde K, \tilde L` have a zero diagonal.

    Args:
        k (Tensor): Symmetric, ``(n, n)``, with ``n >= 4``.
        l (Tensor): Symmetric, ``(n, n)``.

    Raises:
        ValueError: If there are fewer than 4 samples.
    """
    n = len(k)
    if n < 4:
        raise ValueError(f'The unbiased HSIC needs at least 4 samples, received {n}. Use larger batches.')
    k, l = (kernel - torch.diag(kernel.diagonal()) for kernel in (k, l))  # noqa: E741
    both = (k * l).sum() + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k.sum(dim=0) @ l.sum(dim=0))
    return both / (n * (n - 3))


class MinibatchCKA:
    """Linear CKA between features, accumulated over batches.

    ``mean HSIC(K, L) / sqrt(mean HSIC(K, K) mean HSIC(L, L))`` over the batches, with ``K = X X^T`` of the flattened
    features (Nguyen et al., equation 2). About 0 for unrelated features, 1 for features that are equal up to rotation
    and scale.

    Args:
        rows (Sequence): Names of the features on one side.
        columns (Sequence): Names of those on the other.
    """

    def __init__(self, rows: Sequence[Hashable], columns: Sequence[Hashable]) -> None:
        self.rows = list(rows)
        self.columns = list(columns)
        size = len(self.rows) + len(self.columns)
        self._sums = np.zeros((size, size))

    def update(self, rows: Sequence[Tensor], columns: Sequence[Tensor]) -> None:
        """Add a batch: for every name the features ``(B, ...)`` of the same images, ``B >= 4``."""
        kernels = [_kernel(feature) for feature in (*rows, *columns)]
        for i, kernel in enumerate(kernels):
            others = range(len(self.rows), len(kernels)) if i < len(self.rows) else ()
            for j in (i, *others):
                self._sums[i, j] += float(unbiased_hsic(kernel, kernels[j]))

    def compute(self) -> np.ndarray:
        """Return the alignments, ``(rows, columns)``; NaN for constant features."""
        own, split = self._sums.diagonal(), len(self.rows)
        scale = np.outer(own[:split], own[split:])
        return self._sums[:split, split:] / np.sqrt(np.where(scale > 0, scale, np.nan))


def _kernel(feature: Tensor) -> Tensor:
    x = feature.flatten(1).double()
    x = x - x.mean(dim=0)  # for precision; the criterion itself is invariant to it
    return x @ x.T
