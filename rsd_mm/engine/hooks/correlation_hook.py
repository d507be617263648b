# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Watches the cross-correlation of teacher and student turn into the identity."""

from typing import Any, List, Optional

import torch
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from rsd_mm.models.distillers import Distiller
from rsd_mm.utils.config import unwrap
from rsd_mm.utils.random_state import keep_random_state
from rsd_mm.visualization import agreement, cross_correlation, draw_correlation, effective_rank, read_features


@HOOKS.register_module()
class CorrelationHook(Hook):
    """Draws the cross-correlation matrix of a term's two sides, every few epochs, on the same images.

    The images are the first of the validation set, seen in eval mode. The picture
    goes to the run's visualizer, that is as ``correlation_EPOCH.png`` into
    ``vis_data/vis_image``, and to TensorBoard where that is on. So do, and to the
    log, the mean of its diagonal (``correlation/mean_diagonal``, 1 at best), the
    mean square of its other entries (``correlation/mean_square_off_diagonal``, 0 at
    best, about ``1 / images`` for independent features) and the effective rank of
    the student's own embedding (``correlation/effective_rank``). The main process
    does so; the random state of training is left as it is.

    Args:
        interval (int): Epochs from one picture to the next; there is one before
            training and one at its end as well. Defaults to 10.
        images (int): How many images. Defaults to 512.
        term (str): The term's name. Defaults to ``loss_rsd``.

    Raises:
        ValueError: If the model has no such term or its two sides are no
            embeddings, before the first iteration.
    """

    priority = 'LOW'

    def __init__(self, interval: int = 10, images: int = 512, term: str = 'loss_rsd') -> None:
        for name, value in dict(interval=interval, images=images).items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f'CorrelationHook: {name} is a positive integer, received {value!r}.')
        self.interval = interval
        self.images = images
        self.term = term
        self._batches: Optional[List[Any]] = None

    @master_only
    def before_train(self, runner: Any) -> None:
        """Choose the images, and draw the beginning."""
        model = _distiller(runner)
        if model is None or runner.val_loop is None:
            return
        if self.term not in model.terms:
            raise ValueError(
                f'CorrelationHook: the model has no term {self.term!r}; it has {", ".join(model.terms)}. Set term to '
                'one of them.'
            )
        self._batches, count = [], 0
        with keep_random_state():  # a data loader draws a seed from the random state
            for batch in runner.val_loop.dataloader:
                self._batches.append(batch)
                count += len(batch['inputs'])
                if count >= self.images:
                    break
        if runner.iter == 0:
            self._draw(runner, model)

    @master_only
    def after_train_epoch(self, runner: Any) -> None:
        """Draw, if it is time to."""
        model = _distiller(runner)
        if (
            model is not None
            and self._batches
            and (self.every_n_epochs(runner, self.interval) or self.is_last_train_epoch(runner))
        ):
            self._draw(runner, model, runner.epoch + 1)

    def _draw(self, runner: Any, model: Distiller, epoch: int = 0) -> None:
        term = model.terms[self.term]
        own, taught = [], []
        for (embedding,), (target,), _ in read_features(
            model, self._batches, [term.student_tap], [term.teacher_tap], self.images
        ):
            own.append(embedding)
            taught.append(target)
        embedding, teacher = torch.cat(own).float(), torch.cat(taught).float()
        student = embedding
        if term.projector is not None:
            training = term.training
            with torch.no_grad():
                student = term.eval().projector(embedding)
            term.train(training)
        if student.ndim != 2 or student.shape != teacher.shape:
            raise ValueError(
                f'CorrelationHook: {self.term} compares {tuple(student.shape)} with {tuple(teacher.shape)}; a '
                'cross-correlation is of two embeddings (B, D).'
            )
        matrix = cross_correlation(student, teacher)
        numbers = {f'correlation/{name}': value for name, value in agreement(matrix).items()}
        numbers['correlation/effective_rank'] = effective_rank(embedding)
        mean, square, rank = numbers.values()
        runner.visualizer.add_scalars(numbers, step=epoch)
        title = f'epoch {epoch}: diagonal {mean:.2f}, off-diagonal {square**0.5:.3f} (r.m.s.)'
        runner.visualizer.add_image('correlation', draw_correlation(matrix, title), step=epoch)
        runner.logger.info(
            f'Teacher and student on {len(student)} images: correlation of matching features {mean:.3f}, mean square '
            f'of the others {square:.5f}; effective rank of the student {rank:.1f} of {embedding.shape[1]}'
        )


def _distiller(runner: Any) -> Optional[Distiller]:
    model = unwrap(runner.model)
    return model if isinstance(model, Distiller) else None
