# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Tian, Krishnan, Isola: "Contrastive Representation Distillation" (CRD), ICLR 2020, arXiv 1910.10699."""

import mmengine.dist as dist
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor

from .base import DistillLoss, check_pair, hard_labels, in_full_precision


@in_full_precision
def nce_loss(scores: Tensor, memory: Tensor, normalizer: Tensor, num_samples: int) -> Tensor:
    r"""Return the loss of noise-contrastive estimation with one positive and ``K`` negatives, a scalar.

    .. math::
        L = - \frac1B \sum_b \Big[ \log \frac{p_{b0}}{p_{b0} + K/N} + \sum_{k=1}^{K} \log \frac{K/N}{p_{bk} + K/N} \Big]

    with :math:`p = \exp(\text{score}) / Z` (paper, equations 10 and 19, with its estimate of ``Z``).

    Args:
        scores (Tensor): Scores with the positive, ``(B, 1)``.
        memory (Tensor): Scores with the negatives, ``(B, K)``.
        normalizer (Tensor): :math:`\log Z`, a scalar.
        num_samples (int): ``N``, the size of the dataset.
    """
    # In logs: log p - log(p + m) = log sigmoid(log p - log m), which is finite for all finite scores.
    noise = torch.tensor(memory.shape[1] / num_samples, dtype=scores.dtype, device=scores.device).log()
    positive = F.logsigmoid(scores - normalizer - noise)
    negative = F.logsigmoid(noise + normalizer - memory)
    return -(positive.sum() + negative.sum()) / len(scores)


@MODELS.register_module()
class CRDMemoryLoss(DistillLoss):
    r"""Contrastive representation distillation with a memory of the whole dataset.

    Contrasts the student's embedding of a sample with the teacher's of the same image against the teacher's of
    ``negatives`` other images from the memory, by :func:`nce_loss` with scores :math:`\langle u, v \rangle / \tau`; and
    vice versa, which trains the teacher's projector. Embeddings have length 1. The memory holds a running mean for each
    image of the dataset, by index. Negatives are drawn from images of other classes, as far as their classes have been
    seen (the paper's supervised policy, and that of its release).

    The memory is a buffer, so it is saved in checkpoints and follows the device. Each process learns the embeddings of
    all, so it is the same on every process. Negatives come from a generator of its own, which leaves the run's random
    state alone; its state is saved in checkpoints, too.

    Args:
        num_samples (int): Size of the training dataset.
        channels (int): Width of the projected embeddings. Defaults to 128, the paper and RSD's release.
        negatives (int): Negatives per sample. Defaults to 16384, likewise.
        momentum (float): Weight of the past in the memory. Defaults to 0.5, likewise.
        tau (float): Temperature. Defaults to 0.07, likewise.
        loss_weight (float): Factor. Defaults to 1, RSD's release.

    Raises:
        ValueError: If an option is out of range.
    """

    takes = ('gt_labels', 'sample_idx')
    inferred = ('num_samples',)

    num_samples: int
    negatives: int
    momentum: float
    tau: float
    s_memory: Tensor
    t_memory: Tensor
    labels: Tensor
    normalizers: Tensor

    def __init__(
        self,
        num_samples: int,
        channels: int = 128,
        negatives: int = 16384,
        momentum: float = 0.5,
        tau: float = 0.07,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(
            loss_weight, num_samples=num_samples, channels=channels, negatives=negatives, momentum=momentum, tau=tau
        )
        for name, value in dict(num_samples=num_samples, channels=channels, negatives=negatives).items():
            if not isinstance(value, int) or value < 1 + (name == 'num_samples'):
                raise ValueError(f'CRDMemoryLoss: {name} must be a positive integer, received {value!r}.')
        if momentum >= 1:
            raise ValueError(f'CRDMemoryLoss: momentum must be less than 1, received {momentum!r}.')
        for side in ('s_memory', 't_memory'):
            self.register_buffer(side, F.normalize(torch.randn(num_samples, channels), dim=1))
        self.register_buffer('labels', torch.full((num_samples,), -1))
        self.register_buffer('normalizers', torch.full((2,), float('nan')))
        self._draws = 0

    def forward(self, s_feature: Tensor, t_feature: Tensor, gt_labels: Tensor, sample_idx: Tensor) -> Tensor:
        """Return the weighted loss, and update the memory.

        Args:
            s_feature (Tensor): Projected student embedding, ``(B, D)``.
            t_feature (Tensor): Projected teacher embedding, ``(B, D)``.
            gt_labels (Tensor): Classes ``(B,)``, or scores ``(B, C)``, of which the largest is the target.
            sample_idx (Tensor): Indices of the images in the dataset, ``(B,)``; checked if on the CPU.

        Raises:
            ValueError: If the shapes do not fit or an index is not in the memory.
        """
        check_pair('CRD', s_feature, t_feature)
        labels = hard_labels(gt_labels, len(s_feature))
        self._check_indices(sample_idx, s_feature)
        sample_idx = sample_idx.to(s_feature.device)
        u, v = (F.normalize(feature.float(), dim=1) for feature in (s_feature, t_feature))
        self.labels[sample_idx] = labels
        negatives = self._draw(labels)
        value = self._contrast(u, self.t_memory, sample_idx, negatives, 0)
        value = value + self._contrast(v, self.s_memory, sample_idx, negatives, 1)
        self._learn(u, v, sample_idx, labels)
        return self.loss_weight * value

    def get_extra_state(self) -> Tensor:
        """Number of draws of negatives, for checkpoints. As a buffer it would stall the device when read."""
        return torch.tensor(self._draws)

    def set_extra_state(self, state: Tensor) -> None:
        """Continue the draws of a checkpoint."""
        self._draws = int(state)

    def _check_indices(self, sample_idx: Tensor, feature: Tensor) -> None:
        if feature.shape[1] != self.channels:
            raise ValueError(
                f'CRD: its memory is {self.channels} wide, the embeddings {feature.shape[1]}. Give both projectors '
                f'out_channels={self.channels}, or the loss channels={feature.shape[1]}.'
            )
        if sample_idx.device.type == 'cpu' and not 0 <= int(sample_idx.max()) < self.num_samples:
            raise ValueError(
                f'CRD: an image has the index {int(sample_idx.max())}, but its memory is for {self.num_samples} '
                "images. Set the loss's num_samples to the size of the training dataset."
            )

    @torch.no_grad()
    def _draw(self, labels: Tensor) -> Tensor:
        """Draw indices of images of other classes, ``(B, negatives)``, uniformly."""
        known, order = self.labels.sort(stable=True)
        first, last = torch.searchsorted(known, labels), torch.searchsorted(known, labels, right=True)
        others = self.num_samples - (last - first)
        if self.labels.device.type == 'cpu' and int(others.min()) == 0:
            raise ValueError('CRD: all images of the dataset are of one class, so there are no negatives.')
        generator = torch.Generator(labels.device).manual_seed(self._draws)
        self._draws += 1
        draws = torch.rand(len(labels), self.negatives, generator=generator, device=labels.device)
        place = (draws * others[:, None]).long().clamp_max(others[:, None] - 1)
        return order[place + (place >= first[:, None]) * (last - first)[:, None]]

    def _contrast(self, anchor: Tensor, memory: Tensor, positive: Tensor, negatives: Tensor, side: int) -> Tensor:
        with torch.autocast(anchor.device.type, enabled=False):
            scores = (anchor * memory[positive]).sum(dim=1, keepdim=True) / self.tau
            others = (memory[negatives] @ anchor[:, :, None]).squeeze(2) / self.tau
            with torch.no_grad():
                # Z is estimated once, from the first batch, alike on every process and without reading the device.
                mean = torch.cat([scores, others], dim=1).exp().mean()
                dist.all_reduce(mean, 'mean')
                log_z = (mean * self.num_samples).log()
                self.normalizers[side] = torch.where(self.normalizers[side].isnan(), log_z, self.normalizers[side])
        return nce_loss(scores, others, self.normalizers[side].clone(), self.num_samples)

    @torch.no_grad()
    def _learn(self, u: Tensor, v: Tensor, sample_idx: Tensor, labels: Tensor) -> None:
        u, v, sample_idx, labels = (
            torch.cat(dist.all_gather(x.detach().contiguous())) for x in (u, v, sample_idx, labels)
        )
        self.labels[sample_idx] = labels
        for memory, feature in ((self.s_memory, u), (self.t_memory, v)):
            mixed = self.momentum * memory[sample_idx] + (1 - self.momentum) * feature
            memory[sample_idx] = F.normalize(mixed, dim=1)
