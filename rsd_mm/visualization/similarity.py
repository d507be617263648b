# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""How alike two networks see images: centred kernel alignment (CKA).

Kornblith, Norouzi, Lee, Hinton: "Similarity of Neural Network Representations Revisited", ICML 2019, arXiv 1905.00414;
over minibatches as in Nguyen, Raghu, Kornblith: "Do Wide and Deep Networks Learn the Same Things?", ICLR 2021,
arXiv 2010.15327.
"""

from typing import Dict, Hashable, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor


def unbiased_hsic(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741 (the literature's K and L)
    r"""The unbiased estimate of the Hilbert-Schmidt independence criterion of two kernels.

    .. math::
        \frac{1}{n (n - 3)} \Big( tr(\tilde K \tilde L)
        + \frac{1^T \tilde K 1 \; 1^T \tilde L 1}{(n - 1)(n - 2)} - \frac{2}{n - 2} 1^T \tilde K \tilde L 1 \Big)

    with the diagonals of :math:`\tilde K, \tilde L` set to zero (Nguyen et al.,
    equation 3).

    Args:
        k (Tensor): Symmetric, ``(n, n)``, with ``n >= 4``.
        l (Tensor): Symmetric, ``(n, n)``.

    Raises:
        ValueError: If there are fewer than 4 samples.
    """
    n = len(k)
    if n < 4:
        raise ValueError(f'The unbiased HSIC needs at least 4 samples, received {n}. Take larger batches.')
    k, l = (kernel - torch.diag(kernel.diagonal()) for kernel in (k, l))  # noqa: E741
    both = (k * l).sum() + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k.sum(dim=0) @ l.sum(dim=0))
    return both / (n * (n - 3))


class MinibatchCKA:
    """Linear CKA between representations, from any number of batches.

    ``mean HSIC(K, L) / sqrt(mean HSIC(K, K) mean HSIC(L, L))`` over the batches, with
    ``K = X X^T`` of the flattened representations (Nguyen et al., equation 2). About 0
    for unrelated ones and 1 for equal ones, up to rotation and scale.

    Args:
        rows (Sequence): Names of the representations on one side.
        columns (Sequence): Names of those on the other.
    """

    def __init__(self, rows: Sequence[Hashable], columns: Sequence[Hashable]) -> None:
        self.rows = list(rows)
        self.columns = list(columns)
        self._sums: Dict[Tuple[int, int], float] = {}

    def update(self, rows: Sequence[Tensor], columns: Sequence[Tensor]) -> None:
        """Add a batch: for every name a representation ``(B, ...)`` of the same images, ``B >= 4``."""
        kernels = [_kernel(feature) for feature in (*rows, *columns)]
        split = len(self.rows)
        pairs = [(i, i) for i in range(len(kernels))]
        pairs += [(i, j) for i in range(split) for j in range(split, len(kernels))]
        for i, j in pairs:
            self._sums[i, j] = self._sums.get((i, j), 0.0) + float(unbiased_hsic(kernels[i], kernels[j]))

    def compute(self) -> np.ndarray:
        """The alignments, ``(rows, columns)``; nan where a representation does not vary."""
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
    x = x - x.mean(dim=0)  # for precision: the criterion itself is invariant to it
    return x @ x.T
