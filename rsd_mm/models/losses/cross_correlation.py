# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
r"""The arithmetic under RSD's loss: standardization, and sums over the cross-correlation matrix that is never built.

Both are autograd functions with their gradients written out, which takes a third of the passes over a feature that
differentiating them step by step would. Second derivatives are refused.

With several processes and ``count`` given, sums over samples are those of all processes. Reductions are differentiated
by hand as well: a plain ``all_reduce`` would leave out what a process's samples add to the loss of the others.
"""

from typing import Any, List, Optional, Tuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed.nn.functional import all_reduce


def standardize(feature: Tensor, eps: float = 1e-5, count: Optional[int] = None) -> Tensor:
    """Standardize every feature over the batch: ``(x - mean) / (std + eps)``.

    The standard deviation is biased, and ``eps`` is added to it rather than to the variance, as in the authors'
    release. A constant feature becomes exactly zero, with a finite gradient.

    Args:
        feature (Tensor): Shape ``(B, D)``, floating point. Not changed.
        eps (float): Added to the standard deviation.
        count (int, optional): Number of samples of all processes, to use their statistics. Defaults to None, for those
            of this process.

    Returns:
        Tensor: Shape ``(B, D)``.
    """
    return _Standardize.apply(feature, eps, count)


def invariance_and_decorrelation(a: Tensor, b: Tensor, count: Optional[int] = None) -> Tuple[Tensor, Tensor]:
    r"""Return :math:`\sum_i (P_{ii} - 1)^2` and :math:`\sum_{i \ne j} P_{ij}^2` of :math:`P = b^T a / B`.

    :math:`\sum_{ij} P_{ij}^2 = \langle a,\, (b b^T) a \rangle / B^2` is exact and needs ``B x B`` only, so ``P`` is not
    built for a batch smaller than ``D``.

    Args:
        a (Tensor): Standardized student feature, ``(B, D)``.
        b (Tensor): Standardized teacher feature, ``(B, D)``; no gradient.
        count (int, optional): Number of samples of all processes, to sum ``P`` over them.
    """
    return _Parts.apply(a, b, count)


def synchronize(s_feature: Tensor, t_feature: Tensor) -> Tuple[Tensor, Tensor, Optional[int]]:
    """Prepare statistics over all processes by exchanging either the features, ``N x D``, or later ``P``, ``D x D``.

    Returns:
        Tuple[Tensor, Tensor, Optional[int]]: The features, of all processes if that is less, and ``count`` for
        :func:`standardize` and :func:`invariance_and_decorrelation`: None for gathered features.
    """
    sizes = torch.zeros(dist.get_world_size(), dtype=torch.int64, device=s_feature.device)
    sizes[dist.get_rank()] = len(s_feature)
    rows = _reduce(sizes, dist.ReduceOp.SUM).tolist()
    if _gathering_is_cheaper(sum(rows), s_feature.shape[1]):
        return _gather(s_feature, rows), _gather(t_feature, rows), None
    return s_feature, t_feature, sum(rows)


class _Standardize(torch.autograd.Function):
    # y = x / (std + eps), with x the centered feature. Its gradient from that of y, g, with the means over the batch:
    # (g - mean(g)) / (std + eps) - y mean(g y) / std.

    @staticmethod
    def forward(ctx: Any, feature: Tensor, eps: float, count: Optional[int]) -> Tensor:
        total, largest = (_total, _largest) if count is not None else (_own, _own)
        ctx.count = count
        samples, tiny = count or len(feature), torch.finfo(feature.dtype).tiny
        # Subtracting a constant leaves the result as it is, and makes a constant column exactly zero
        # whatever its magnitude; the mean alone leaves a rounding error that may exceed eps.
        x = feature - largest(feature[0])
        x -= total(x.sum(dim=0)) / samples
        # Squares of large values overflow, so they are taken of x / max|x|; their sum is zero for a constant
        # column and at least one for any other.
        peak = largest(x.abs().amax(dim=0)).clamp_min(tiny)
        x /= peak
        std = (peak * (total(x.square().sum(dim=0)) / samples).sqrt()).clamp_min(tiny)
        x = x * (peak / (std + eps))  # not in place: torch.compile would lose the gradient
        ctx.save_for_backward(x, std, std + eps)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tuple[Tensor, None, None]:
        total = _total if ctx.count is not None else _own
        y, std, divisor = ctx.saved_tensors
        samples = ctx.count or len(y)
        x = gradient / divisor
        x -= total(x.sum(dim=0)) / samples
        x.addcmul_(y, total((gradient * y).sum(dim=0)) / samples / std, value=-1)
        return x, None, None


class _Parts(torch.autograd.Function):
    # Both forms keep what the gradient needs: by a it is b P' with P' = 2 (P_ii - 1) on the diagonal and 2 P_ij beside
    # it, and of sum_ij P_ij^2 alone 2 (b b^T) a / B^2, which the forward has computed already.

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, count: Optional[int]) -> Tuple[Tensor, Tensor]:
        ctx.count, ctx.by_batch = count, count is None and _batch_form_is_cheaper(*a.shape)
        if ctx.by_batch:
            matrix = b @ b.T @ a / len(a) ** 2
            diagonal = (a * b).sum(dim=0) / len(a)
            decorrelation = (a * matrix).sum() - diagonal.square().sum()
        else:
            matrix = b.T @ a / (count or len(a))
            if count is not None:
                matrix = _total(matrix)
            diagonal = matrix.diagonal().clone()
            decorrelation = matrix.fill_diagonal_(0).square().sum()
        ctx.save_for_backward(b, matrix, diagonal)
        return (diagonal - 1).square().sum(), decorrelation

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, invariance: Tensor, decorrelation: Tensor) -> Tuple[Tensor, None, None]:
        b, matrix, diagonal = ctx.saved_tensors
        if ctx.count is not None:  # each process's loss depends on the features of all
            invariance, decorrelation = _total(torch.stack([invariance, decorrelation])).unbind()
        on_diagonal = 2 * invariance * (diagonal - 1)
        if ctx.by_batch:
            scale = (on_diagonal - 2 * decorrelation * diagonal) / len(b)
            return torch.addcmul(matrix * (2 * decorrelation), b, scale), None, None
        outer = matrix * (2 * decorrelation)
        outer.diagonal().copy_(on_diagonal)
        with torch.autocast(b.device.type, enabled=False):
            return b @ outer / (ctx.count or len(b)), None, None


def _batch_form_is_cheaper(batch: int, dim: int) -> bool:
    # Multiplications, forward and backward: 2 B^2 D against 2 B D^2.
    return batch < dim


def _gathering_is_cheaper(count: int, dim: int) -> bool:
    # Numbers that a process sends and receives, forward and backward: three sums over the processes of N x D
    # (two features, one gradient), or one of D x D. Gathered, each also computes with the whole batch; where
    # 3 N < D that is at most 4/9 D^3 multiplications, less than the communication costs.
    return 3 * count < dim


def _own(x: Tensor) -> Tensor:
    return x


def _total(x: Tensor) -> Tensor:
    return _reduce(x, dist.ReduceOp.SUM)


def _largest(x: Tensor) -> Tensor:
    return _reduce(x, dist.ReduceOp.MAX)


def _reduce(x: Tensor, operation: Any) -> Tensor:
    x = x.clone()
    dist.all_reduce(x, operation)
    return x


def _gather(feature: Tensor, rows: List[int]) -> Tensor:
    """Return the features of all processes, ``(N, D)``, as a sum of each one's rows, padded with zeros."""
    before = sum(rows[: dist.get_rank()])
    total = all_reduce if feature.requires_grad else _total  # the former sums gradients over the processes, too
    return total(F.pad(feature, (0, 0, before, sum(rows) - before - len(feature))))
