# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""The loss of Redundancy Suppression Distillation (RSD).

Zhang, Liu, Ran, Ma: "Cross-Architecture Distillation Made Simple with
Redundancy Suppression", ICCV 2025, arXiv 2507.21844.
"""

import math
from typing import Any, Dict, List, Optional, Tuple, Union

import torch
import torch.distributed as dist
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.nn.functional import all_reduce


def standardize(feature: Tensor, eps: float = 1e-5, count: Optional[int] = None) -> Tensor:
    """Standardize every feature over the batch: ``(x - mean) / (std + eps)``.

    The standard deviation is the biased one, and ``eps`` is added to it rather
    than to the variance, as in the authors' release. A constant feature becomes
    exactly zero, with a finite gradient.

    Args:
        feature (Tensor): Shape ``(B, D)``, floating point. Not changed.
        eps (float): Added to the standard deviation.
        count (int, optional): The samples of all processes together, to take the
            mean and the deviation over them. Defaults to None, this process's own.

    Returns:
        Tensor: Shape ``(B, D)``.
    """
    return _Standardize.apply(feature, eps, count)


class _Standardize(torch.autograd.Function):
    # y = x / (std + eps), with x the centered feature. Its gradient from that of y, g, with the means over the batch:
    # (g - mean(g)) / (std + eps) - y mean(g y) / std. Written out, since it is a third of the passes over the feature
    # that differentiating the forward step by step makes.

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


def rsd_loss_parts(
    s_feature: Tensor, t_feature: Tensor, eps: float = 1e-5, sync: bool = False, check_finite: bool = True
) -> Tuple[Tensor, Tensor]:
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
    the inputs are not changed.

    With several processes each uses its own batch, as the authors' release does,
    unless ``sync``: then the value is that of all their samples together, the
    same in every process, and the mean over the processes of the gradients, which
    is what DDP makes, is that of one process with the whole batch. Batches may
    differ in size. The processes exchange either their features, ``N x D``, or
    ``P``, ``D x D``, whichever is less.

    Args:
        s_feature (Tensor): The student's (projected) embedding, ``(B, D)``.
        t_feature (Tensor): The teacher's embedding, ``(B, D)``.
        eps (float): Added to the standard deviation. Defaults to 1e-5, the
            authors' release.
        sync (bool): Use the batches of all processes. Without a process group it
            has nothing to do. Defaults to False, the authors' release.
        check_finite (bool): Look for NaN and inf on a CPU. Defaults to True.

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
        s, t = s_feature.to(dtype), t_feature.detach().to(dtype)
        count = None  # of the samples, where the sums over them have to be those of all processes
        if sync and dist.is_initialized():
            sizes = _batch_sizes(s)
            if _features_are_less(sum(sizes), s.shape[1]):
                s, t = _gather(s, sizes), _gather(t, sizes)
            else:
                count = sum(sizes)
        invariance, decorrelation = _Parts.apply(standardize(s, eps, count), standardize(t, eps, count), count)
    if check_finite and s.device.type == 'cpu' and not torch.isfinite(invariance + decorrelation):
        _report_non_finite(s_feature=s_feature, t_feature=t_feature)
    return invariance, decorrelation


class _Parts(torch.autograd.Function):
    # Both forms keep what the gradient needs: by the student's a it is b P' with P' = 2 (P_ii - 1) on the diagonal and
    # 2 P_ij beside it, and of sum_ij P_ij^2 alone 2 (b b^T) a / B^2, which the forward has computed already.

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


def rsd_loss(
    s_feature: Tensor, t_feature: Tensor, kappa: float = 0.01, eps: float = 1e-5, sync: bool = False
) -> Tensor:
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
        sync (bool): Use the batches of all processes. Defaults to False, the
            authors' release.

    Returns:
        Tensor: A scalar.
    """
    _check_kappa(kappa)
    invariance, decorrelation = rsd_loss_parts(s_feature, t_feature, eps, sync)
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
        sync (bool): Take the statistics over the batches of all processes, see
            :func:`rsd_loss_parts`. Defaults to False, the authors' release.

    Raises:
        ValueError: If ``kappa`` or ``loss_weight`` is negative or ``eps`` is not
            positive.
    """

    #: Whether NaN and inf are looked for on a CPU; HealthHook, which looks for them itself, turns it off.
    check_finite = True

    def __init__(self, loss_weight: float = 0.1, kappa: float = 0.01, eps: float = 1e-5, sync: bool = False) -> None:
        super().__init__()
        if not 0 <= loss_weight < math.inf:
            raise ValueError(f'RSDLoss: loss_weight must be a number >= 0, received {loss_weight!r}.')
        _check_kappa(kappa)
        _check_eps(eps)
        self.loss_weight = loss_weight
        self.kappa = kappa
        self.eps = eps
        self.sync = sync

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
        invariance, decorrelation = rsd_loss_parts(s_feature, t_feature, self.eps, self.sync, self.check_finite)
        loss = self.loss_weight * (invariance + self.kappa * decorrelation)
        if not return_parts:
            return loss
        return loss, dict(invariance=invariance.detach(), decorrelation=decorrelation.detach())

    def extra_repr(self) -> str:
        return f'loss_weight={self.loss_weight}, kappa={self.kappa}, eps={self.eps}, sync={self.sync}'


def _batch_form_is_cheaper(batch: int, dim: int) -> bool:
    # Multiplications, forward and backward: 2 B^2 D against 2 B D^2.
    return batch < dim


def _features_are_less(count: int, dim: int) -> bool:
    # Numbers that a process sends and receives, forward and backward: three sums over the processes of N x D
    # (two features, one gradient), or one of D x D. Gathered, each also computes with the whole batch; where
    # 3 N < D that is at most 4/9 D^3 multiplications, and less than what is communicated costs.
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


def _batch_sizes(feature: Tensor) -> List[int]:
    """The number of samples of every process. Their sum and the rows before one's own have to be known here."""
    sizes = torch.zeros(dist.get_world_size(), dtype=torch.int64, device=feature.device)
    sizes[dist.get_rank()] = len(feature)
    return _reduce(sizes, dist.ReduceOp.SUM).tolist()


def _gather(feature: Tensor, sizes: List[int]) -> Tensor:
    """The features of all processes, ``(N, D)``, as a sum of their own rows, zeros elsewhere."""
    before = sum(sizes[: dist.get_rank()])
    # Its gradient is summed over the processes as well. A plain all_reduce would leave out what this
    # process's samples do to the loss of the others.
    total = all_reduce if feature.requires_grad else _total
    return total(F.pad(feature, (0, 0, before, sum(sizes) - before - len(feature))))


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
    if dist.is_initialized():
        raise ValueError('RSD: the features of another process hold NaN or inf; its own message says which.')
