# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Is the teacher as good as it is said to be?"""

import re
from typing import Any, Optional

import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import HOOKS

from rsd_mm.models.distillers import Distiller, TeacherClassifier
from rsd_mm.models.taps import num_classes
from rsd_mm.utils.config import unwrap
from rsd_mm.utils.model_index import published_accuracy
from rsd_mm.utils.random_state import keep_random_state


@HOOKS.register_module()
class TeacherAccuracyHook(Hook):
    """Evaluates the teacher, and a student with weights, on the validation set before the first iteration.

    Images take the distillation's own way, its pipeline, preprocessor and input
    bridge; wrong weights, normalization, channel order or image size cost
    accuracy, and a distillation would go on without a word. A gap is a warning
    rather than an error, since the validation set may be another than the one
    that the figure is of. With several processes each evaluates its share.

    A teacher of which no accuracy is known, a fine-tuned one for example, is
    evaluated as well, and its accuracy told without a comparison, unless it has
    other classes than the student or no weights. So is a student that starts from
    weights. Each costs what one validation by the same network costs.

    A resumed run is not checked again, nor one without validation.

    Args:
        expected (float, optional): The teacher's top-1 accuracy in percent.
            Defaults to None: what MMPretrain's model index states of its weights
            (a URL of the index, or a file that has kept its name) for the dataset
            of validation, if that is known.
        tolerance (float): The gap that is no warning yet, in points. Defaults to 1.
        only_known (bool): Leave out a teacher of which no accuracy is known.
            Defaults to False.
        student (bool, optional): Whether to evaluate the student. Defaults to
            None: if it starts from weights (its ``checkpoint`` or ``pretrained``,
            or the run's ``load_from``). One that starts at random is at chance.
        enable (bool): Whether to evaluate anything. Defaults to True.

    Raises:
        ValueError: If ``expected`` or ``tolerance`` is no percentage.
    """

    priority = 'VERY_LOW'  # after the other hooks have set the run up

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
        """Evaluate the teacher, and warn if it is worse than it should be; then the student."""
        model = unwrap(runner.model)
        if not self.enable or runner.iter > 0 or runner.val_loop is None or not isinstance(model, Distiller):
            return
        self._check_teacher(runner, model)
        weights = model.student_checkpoint or runner._load_from
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
        if expected is None and (self.only_known or not _worth_showing(model)):
            return
        top1 = self._evaluate(runner, TeacherClassifier(model), 'teacher')
        if top1 is None:
            return
        message = f'Teacher {teacher.origin}: top-1 {top1:.2f} % on the validation set'
        if expected is None:
            runner.logger.info(f'{message}; no accuracy is known to compare it with.')
            return
        message += f', {expected:.2f} % {source}.'
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

    def _evaluate(self, runner: Any, model: BaseModel, role: str) -> Optional[float]:
        loader, evaluator = runner.val_loop.dataloader, runner.val_loop.evaluator
        runner.logger.info(f'Evaluating the {role} on the validation set ({len(loader.dataset)} images)...')
        training = model.training
        model.eval()
        # A data loader draws a seed from the random state, which training goes on with.
        with keep_random_state(), torch.no_grad():
            for batch in loader:
                evaluator.process(data_samples=model.val_step(batch), data_batch=batch)
        model.train(training)
        top1 = evaluator.evaluate(len(loader.dataset)).get('accuracy/top1')
        if top1 is None:
            runner.logger.info(f"The validation set's evaluator gives no accuracy/top1: nothing is told of the {role}.")
        return top1


def _worth_showing(model: Distiller) -> bool:
    """Whether the teacher's own predictions say something of it: it has weights, and the student's classes."""
    teacher = model.teacher
    classes = num_classes(teacher.model)
    if not teacher.has_weights or classes is None or classes != num_classes(model.student):
        return False
    try:
        teacher.tap('logits')
    except ValueError:
        return False  # they can't be told, and no term needs them
    return True


def _same_dataset(stated: str, dataset: Any, classes: Optional[int]) -> bool:
    """Whether the model index means this dataset: ImageNet-1k is read by ``ImageNet``, CIFAR-100 by ``CIFAR100``."""
    name = re.sub('[^a-z0-9]', '', stated.lower().replace('imagenet-1k', 'imagenet'))
    names = (getattr(dataset, 'metainfo', None) or {}).get('classes') or ()
    return type(dataset).__name__.lower() == name and len(names) in (0, classes)
