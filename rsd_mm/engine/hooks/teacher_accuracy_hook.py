# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Is the teacher as good as it is said to be?"""

import re
from typing import Any, Optional

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from rsd_mm.models.distillers import Distiller, num_classes
from rsd_mm.models.distillers.distiller import TeacherClassifier
from rsd_mm.utils.config import unwrap
from rsd_mm.utils.model_index import published_accuracy
from rsd_mm.utils.random_state import keep_random_state


@HOOKS.register_module()
class TeacherAccuracyHook(Hook):
    """Evaluates the teacher on the validation set before the first iteration.

    Images take the distillation's own way, its pipeline, preprocessor and input
    bridge; wrong weights, normalization, channel order or image size cost
    accuracy, and a distillation would go on without a word. A gap is a warning
    rather than an error, since the validation set may be another than the one
    that the figure is of. With several processes each evaluates its share.

    A resumed run is not checked again, nor one without validation.

    Args:
        expected (float, optional): The teacher's top-1 accuracy in percent.
            Defaults to None: what MMPretrain's model index states of its weights
            (a URL of the index, or a file that has kept its name) for the dataset
            of validation. If that is not known, nothing is evaluated.
        tolerance (float): The gap that is no warning yet, in points. Defaults to 1.
        enable (bool): Whether to check at all. Defaults to True.

    Raises:
        ValueError: If ``expected`` or ``tolerance`` is no percentage.
    """

    priority = 'VERY_LOW'  # after the other hooks have set the run up

    def __init__(self, expected: Optional[float] = None, tolerance: float = 1.0, enable: bool = True) -> None:
        for name, value in dict(expected=expected, tolerance=tolerance).items():
            if value is not None and not 0 <= value <= 100:
                raise ValueError(f'TeacherAccuracyHook: {name} is in percent, from 0 to 100, received {value!r}.')
        self.expected = expected
        self.tolerance = tolerance
        self.enable = enable

    def before_train(self, runner: Any) -> None:
        """Evaluate the teacher, and warn if it is worse than it should be."""
        model = unwrap(runner.model)
        if not self.enable or runner.iter > 0 or runner.val_loop is None or not isinstance(model, Distiller):
            return
        dataset = runner.val_loop.dataloader.dataset
        expected, source = self.expected, 'expected'
        if expected is None:
            published = published_accuracy(model.teacher.checkpoint) if model.teacher.checkpoint else None
            if published is None or not _same_dataset(published.dataset, dataset, num_classes(model.teacher.model)):
                return
            expected, source = published.top1, f'stated for {published.name} on {published.dataset}'
        runner.logger.info(f'Evaluating the teacher on the validation set ({len(dataset)} images)...')
        top1 = self._evaluate(runner, model)
        if top1 is None:
            runner.logger.info("The validation set's evaluator gives no accuracy/top1: the teacher is not checked.")
            return
        message = (
            f'Teacher {model.teacher.origin}: top-1 {top1:.2f} % on the validation set, {expected:.2f} % {source}.'
        )
        if abs(top1 - expected) <= self.tolerance:
            runner.logger.info(message)
            return
        rule = '!' * 100
        runner.logger.warning(
            f'{rule}\n{message}\nThat is {abs(top1 - expected):.2f} points apart. Unless the validation set is '
            'another, the teacher does not see what it was trained on: check its weights, the mean and std of its '
            'data_preprocessor, flip_channels and input_size, and evaluate it again with tools/check_teacher.py.\n'
            f'{rule}'
        )

    def _evaluate(self, runner: Any, model: Distiller) -> Optional[float]:
        loader, evaluator = runner.val_loop.dataloader, runner.val_loop.evaluator
        teacher = TeacherClassifier(model).eval()
        # A data loader draws a seed from the random state, which training goes on with.
        with keep_random_state(), torch.no_grad():
            for batch in loader:
                evaluator.process(data_samples=teacher.val_step(batch), data_batch=batch)
        return evaluator.evaluate(len(loader.dataset)).get('accuracy/top1')


def _same_dataset(stated: str, dataset: Any, classes: Optional[int]) -> bool:
    """Whether the model index means this dataset: ImageNet-1k is read by ``ImageNet``, CIFAR-100 by ``CIFAR100``."""
    name = re.sub('[^a-z0-9]', '', stated.lower().replace('imagenet-1k', 'imagenet'))
    names = (getattr(dataset, 'metainfo', None) or {}).get('classes') or ()
    return type(dataset).__name__.lower() == name and len(names) in (0, classes)
