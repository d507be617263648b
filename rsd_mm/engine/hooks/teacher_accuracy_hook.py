# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Evaluate the teacher, and a pretrained student, before training."""

import re
from typing import Any, Optional

import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import HOOKS

from rsd_mm.engine.runner import distiller_of, starting_checkpoint
from rsd_mm.models.distillers import Distiller, TeacherClassifier
from rsd_mm.models.taps import num_classes
from rsd_mm.utils.model_index import published_accuracy
from rsd_mm.utils.random_state import keep_random_state


@HOOKS.register_module()
class TeacherAccuracyHook(Hook):
    """Evaluate the teacher, and a pretrained student, on the validation set before training.

    The teacher gets its images as in training, through the run's pipeline, data preprocessor and input bridge. Wrong
    weights, normalization, channel order or image size lower its accuracy, and nothing else would reveal them. A gap to
    the expected accuracy is a warning, not an error, since the validation set may be a different one. Several processes
    share the images.

    A teacher of unknown accuracy, a fine-tuned one for example, is evaluated without a comparison, unless its classes
    are not the student's or it has no weights. Each evaluation costs one validation by that network. Resumed runs and
    runs without validation evaluate nothing.

    Args:
        expected (float, optional): The teacher's top-1 accuracy in percent. Defaults to None: the one that MMPretrain's
            model index states for its weights (a URL of the index, or a file of the same name), if the validation set
            is of the same dataset.
        tolerance (float): Largest gap without a warning, in points. Defaults to 1.
        only_known (bool): Skip a teacher of unknown accuracy. Defaults to False.
        student (bool, optional): Whether to evaluate the student. Defaults to None: if it is pretrained (its
            ``checkpoint`` or ``pretrained``, or the run's ``load_from``).
        enable (bool): Whether to evaluate anything. Defaults to True.

    Raises:
        ValueError: If ``expected`` or ``tolerance`` is not a percentage.
    """

    priority = 'VERY_LOW'  # After the other hooks have set up the run.

    def __init__(
        self,
        expected: Optional[float] = None,
        tolerance: float = 1.0,
        only_known: bool = False,
        student: Optional[bool] = None,
        enable: bool = True,
    ) -> None:
        for name, value in dict(expected=expected, tolerance=tolerance).items():
            if value is not None and not 0 <= value <= 100:
                raise ValueError(f'TeacherAccuracyHook: {name} is in percent, from 0 to 100, received {value!r}.')
        self.expected = expected
        self.tolerance = tolerance
        self.only_known = only_known
        self.student = student
        self.enable = enable

    def before_train(self, runner: Any) -> None:
        """Evaluate the teacher, then the student."""
        model = distiller_of(runner)
        if not self.enable or runner.iter > 0 or runner.val_loop is None or model is None:
            return
        self._check_teacher(runner, model)
        weights = model.student_checkpoint or starting_checkpoint(runner)
        if weights is not None if self.student is None else self.student:
            top1 = self._evaluate(runner, model, 'student')
            if top1 is not None:
                runner.logger.info(f'Student, weights {weights}: top-1 {top1:.2f} % on the validation set.')

    def _check_teacher(self, runner: Any, model: Distiller) -> None:
        teacher, dataset = model.teacher, runner.val_loop.dataloader.dataset
        expected, source = self.expected, 'expected'
        if expected is None and teacher.checkpoint:
            published = published_accuracy(teacher.checkpoint)
            if published is not None and _same_dataset(published.dataset, dataset, num_classes(teacher.model)):
                expected, source = published.top1, f'stated for {published.name} on {published.dataset}'
        if expected is None and (self.only_known or not _can_classify(model)):
            return
        top1 = self._evaluate(runner, TeacherClassifier(model), 'teacher')
        if top1 is None:
            return
        message = f'Teacher {teacher.origin}: top-1 {top1:.2f} % on the validation set'
        if expected is None:
            runner.logger.info(f'{message}; its accuracy is not known for comparison.')
        elif abs(top1 - expected) <= self.tolerance:
            runner.logger.info(f'{message}, {expected:.2f} % {source}.')
        else:
            rule = '!' * 100
            runner.logger.warning(
                f'{rule}\n{message}, {expected:.2f} % {source}.\nThat is {abs(top1 - expected):.2f} points apart. '
                'Unless this is a different validation set, the teacher does not see what it was trained on: check its '
                'weights, the mean and std of its data_preprocessor, flip_channels and input_size, and evaluate it '
                f'again with tools/check_teacher.py.\n{rule}'
            )

    def _evaluate(self, runner: Any, model: BaseModel, role: str) -> Optional[float]:
        loader, evaluator = runner.val_loop.dataloader, runner.val_loop.evaluator
        runner.logger.info(f'Evaluating the {role} on the validation set ({len(loader.dataset)} images)...')
        training = model.training
        model.eval()
        with keep_random_state(), torch.no_grad():  # A data loader draws a seed.
            for batch in loader:
                evaluator.process(data_samples=model.val_step(batch), data_batch=batch)
        model.train(training)
        top1 = evaluator.evaluate(len(loader.dataset)).get('accuracy/top1')
        if top1 is None:
            runner.logger.info(f'The val_evaluator has no accuracy/top1, so the accuracy of the {role} is unknown.')
        return top1


def _can_classify(model: Distiller) -> bool:
    """Return whether the teacher has weights, the student's classes and logits."""
    teacher = model.teacher
    classes = num_classes(teacher.model)
    if not teacher.has_weights or classes is None or classes != num_classes(model.student):
        return False
    try:
        teacher.tap('logits')
    except ValueError:
        return False  # Its classifier is ambiguous, and no term needs it.
    return True


def _same_dataset(stated: str, dataset: Any, classes: Optional[int]) -> bool:
    """Return whether the model index means this dataset, for example ImageNet-1k and ``ImageNet``."""
    name = re.sub('[^a-z0-9]', '', stated.lower().replace('imagenet-1k', 'imagenet'))
    names = (getattr(dataset, 'metainfo', None) or {}).get('classes') or ()
    return type(dataset).__name__.lower() == name and len(names) in (0, classes)
