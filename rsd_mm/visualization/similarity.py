# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Centred kernel alignment (CKA) between the features of two networks.

Kornblith, Norouzi, Lee, Hinton: "Similarity of Neural Network Representations Revisited", ICML 2019, arXiv 1905.00414;
over minibatches as in Nguyen, Raghu, Kornblith: "Do Wide and Deep Networks Learn the Same Things?", ICLR 2021,
arXiv 2010.15327.
"""

from typing import Dict, Hashable, Sequence, Tuple

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
        self._sums: Dict[Tuple[int, int], float] = {}

    def update(self, rows: Sequence[Tensor], columns: Sequence[Tensor]) -> None:
        """Add a batch: for every name the features ``(B, ...)`` of the same images, ``B >= 4``."""
        kernels = [_kernel(feature) for feature in (*rows, *columns)]
        split = len(self.rows)
        pairs = [(i, i) for i in range(len(kernels))]
        pairs += [(i, j) for i in range(split) for j in range(split, len(kernels))]
        for i, j in pairs:
            self._sums[i, j] = self._sums.get((i, j), 0.0) + float(unbiased_hsic(kernels[i], kernels[j]))

    def compute(self) -> np.ndarray:
        """Return the alignments, ``(rows, columns)``; NaN for constant features."""
        split = len(self.rows)
        values = np.full((split, len(self.columns)), np.nan)
        for i in range(split):
            for j in range(len(self.columns)):
                own = self._sums[i, i] * self._sums[split + j, split + j]
                if own > 0:
                    values[i, j] = self._sums[i, split + j] / own**0.5
        return values


def _kernel(feature: Tensor) -> Tensor:
    x = feature.flatten(1).double()
    x = x - x.mean(dim=0)  # for precision; the criterion itself is invariant to it
    return x @ x.T
