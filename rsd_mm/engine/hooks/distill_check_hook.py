# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Check the training data before the first iteration."""

from typing import Any, Optional

import numpy as np
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from rsd_mm.engine.runner import distiller_of
from rsd_mm.models.taps import num_classes


@HOOKS.register_module()
class DistillCheckHook(Hook):
    """Check the training data of a distillation before the first iteration.

    - The last batch of an epoch must have more than one sample, to correlate features.
    - The classes and labels of the dataset must be those of the student. Classes without images are logged as a
      warning.
    - Images must not be smaller than the crop.

    Models other than a distiller are not checked.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Any) -> None:
        """Check the data.

        Raises:
            ValueError: If a check fails; the message says what to change.
        """
        model = distiller_of(runner)
        if model is None:
            return
        loader, classes = runner.train_dataloader, num_classes(model.student)
        self._check_last_batch(loader)
        self._check_classes(loader.dataset, classes)
        self._check_labels(runner, loader.dataset, classes)
        self._check_crop(loader.dataset)

    def _check_last_batch(self, loader: Any) -> None:
        size = getattr(loader, 'batch_size', None)
        if size == 1:
            raise ValueError(
                'train_dataloader: batch_size=1, but distillation correlates features over the batch of a '
                'process, so it needs at least 2, better 64 or more.'
            )
        try:
            samples = len(loader.sampler)
        except TypeError:
            return  # an infinite sampler, with full batches only
        if size and not loader.drop_last and samples % size == 1:
            raise ValueError(
                f'train_dataloader: with {samples} samples per process and batch_size={size}, the last batch of an '
                'epoch has 1 sample, too few to correlate features. Set drop_last=True in train_dataloader, or change '
                'batch_size.'
            )

    def _check_classes(self, dataset: Any, classes: Optional[int]) -> None:
        names = (getattr(dataset, 'metainfo', None) or {}).get('classes')
        if names and classes and len(names) != classes:
            raise ValueError(
                f'The training dataset has {len(names)} classes, the student {classes}. Set '
                f'student=dict(head=dict(num_classes={len(names)})) in the model of the config, and '
                f'data_preprocessor=dict(num_classes={len(names)}).'
            )

    def _check_labels(self, runner: Any, dataset: Any, classes: Optional[int]) -> None:
        if not hasattr(dataset, 'get_gt_labels') or not classes:
            return
        labels = np.asarray(dataset.get_gt_labels())
        if labels.ndim != 1:
            return  # multi-label
        if labels.size and not 0 <= labels.min() <= labels.max() < classes:
            raise ValueError(
                f'The training dataset has labels from {labels.min()} to {labels.max()}, but the student has {classes} '
                f'classes, 0 to {classes - 1}. Correct the annotation file, or num_classes of the student.'
            )
        missing = sorted(set(range(classes)) - set(labels.tolist()))
        if missing:
            shown = ', '.join(map(str, missing[:10])) + (', ...' if len(missing) > 10 else '')
            runner.logger.warning(
                f'{len(missing)} of the {classes} classes have no training image: {shown}. Is the dataset complete?'
            )

    def _check_crop(self, dataset: Any) -> None:
        transforms = getattr(getattr(dataset, 'pipeline', None), 'transforms', [])
        crops = [transform for transform in transforms if getattr(transform, 'crop_size', None) is not None]
        if not crops:
            return
        size = crops[-1].crop_size
        expected = (size, size) if isinstance(size, int) else tuple(size)
        shape = tuple(dataset[0]['inputs'].shape[-2:])
        if any(side < least for side, least in zip(shape, expected)):
            raise ValueError(
                f'train_dataloader: the first image is {shape[0]} x {shape[1]} after {type(crops[-1]).__name__}, which '
                f'should return {expected[0]} x {expected[1]}: images are smaller than the crop. Resize them first.'
            )
