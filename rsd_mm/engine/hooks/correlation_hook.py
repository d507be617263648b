# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Log the cross-correlation of teacher and student during training."""

from typing import Any, List

import torch
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from rsd_mm.engine.runner import distiller_of
from rsd_mm.models.distillers import Distiller
from rsd_mm.utils.random_state import keep_random_state
from rsd_mm.visualization import agreement, cross_correlation, draw_correlation, effective_rank, read_features


@HOOKS.register_module()
class CorrelationHook(Hook):
    """Draw the cross-correlation matrix of a term's two embeddings every few epochs.

    It is computed in eval mode on the first images of the validation set. The picture goes to the run's visualizer,
    that is to ``vis_data/vis_image/correlation_EPOCH.png`` and, if enabled, to TensorBoard. So do, and to the log, the
    mean of the diagonal (``correlation/mean_diagonal``, 1 is best), the mean square of the other entries
    (``correlation/mean_square_off_diagonal``, 0 is best, about ``1 / images`` for independent features) and the
    effective rank of the student's embedding before the projector (``correlation/effective_rank``). Only the main
    process does this; the random state of training does not change.

    Args:
        interval (int): Epochs between two pictures, besides those before and after training. Defaults to 10.
        images (int): Number of images. Defaults to 512.
        term (str): Name of the term. Defaults to ``loss_rsd``.

    Raises:
        ValueError: If the model has no such term, or the term does not compare two embeddings; before the first
            iteration.
    """

    priority = 'LOW'

    def __init__(self, interval: int = 10, images: int = 512, term: str = 'loss_rsd') -> None:
        for name, value in dict(interval=interval, images=images).items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f'CorrelationHook: {name} is a positive integer, received {value!r}.')
        self.interval = interval
        self.images = images
        self.term = term
        self._batches: List[Any] = []

    @master_only
    def before_train(self, runner: Any) -> None:
        """Load the images, and draw the first picture."""
        model = distiller_of(runner)
        if model is None or runner.val_loop is None:
            return
        if self.term not in model.terms:
            raise ValueError(
                f'CorrelationHook: the model has no term {self.term!r}; set term to one of {", ".join(model.terms)}.'
            )
        self._batches, count = [], 0
        with keep_random_state():  # A data loader draws a seed.
            for batch in runner.val_loop.dataloader:
                self._batches.append(batch)
                count += len(batch['inputs'])
                if count >= self.images:
                    break
        if runner.iter == 0:
            self._draw(runner, model, 0)

    @master_only
    def after_train_epoch(self, runner: Any) -> None:
        """Draw a picture every ``interval`` epochs and after the last one."""
        model = distiller_of(runner)
        due = self.every_n_epochs(runner, self.interval) or self.is_last_train_epoch(runner)
        if model is not None and self._batches and due:
            self._draw(runner, model, runner.epoch + 1)

    @torch.no_grad()
    def _draw(self, runner: Any, model: Distiller, epoch: int) -> None:
        term = model.terms[self.term]
        features = read_features(model, self._batches, [term.student_tap], [term.teacher_tap], self.images)
        rows = []
        for (own,), (target,), _ in features:  # in eval mode
            rows.append((own, own if term.projector is None else term.projector(own), target))
        embedding, student, teacher = (torch.cat(parts).float() for parts in zip(*rows))
        if student.ndim != 2 or student.shape != teacher.shape:
            raise ValueError(
                f'CorrelationHook: {self.term} compares {tuple(student.shape)} with {tuple(teacher.shape)}; the '
                'cross-correlation needs two embeddings (B, D).'
            )
        matrix = cross_correlation(student, teacher)
        numbers = {f'correlation/{name}': value for name, value in agreement(matrix).items()}
        numbers['correlation/effective_rank'] = effective_rank(embedding)
        mean, square, rank = numbers.values()
        runner.visualizer.add_scalars(numbers, step=epoch)
        title = f'epoch {epoch}: diagonal {mean:.2f}, off-diagonal {square**0.5:.3f} (r.m.s.)'
        runner.visualizer.add_image('correlation', draw_correlation(matrix, title), step=epoch)
        runner.logger.info(
            f'Teacher and student on {len(student)} images: mean correlation of matching features {mean:.3f}, mean '
            f'square of the others {square:.5f}; effective rank of the student {rank:.1f} of {embedding.shape[1]}'
        )
