# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Resume a run as if it had not been interrupted."""

import functools
from typing import Any, Dict, Optional

import mmengine.dist as dist
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, set_random_seed

from rsd_mm.engine.cleanup import cleanup_stack, patch
from rsd_mm.engine.resuming import (
    SeededItems,
    SkipFirst,
    differences,
    fingerprint,
    flat_options,
    newest_checkpoint,
    seed_of,
)
from rsd_mm.engine.runner import distiller_of, is_resuming, resume_from, starting_checkpoint, unwrap
from rsd_mm.utils.checkpoint import read_checkpoint


@HOOKS.register_module()
class ResumeHook(Hook):
    """Resume a run as if it had not been interrupted.

    - ``--resume`` takes the newest complete checkpoint; truncated or damaged ones are reported and skipped.
    - A checkpoint of a different model (teacher, its weights, kappa, projector, ...) is refused, with the differences.
    - A checkpoint saved within an epoch resumes there: the remaining images in the same order, each once.
    - Every iteration and every sample is seeded with the run's seed and its number, so what they draw does not depend
      on resuming, validation or, in training by epochs, on data workers.

    Args:
        allow_changes (bool): Warn about a changed model instead of refusing it. Defaults to False.
    """

    priority = 'VERY_HIGH'

    def __init__(self, allow_changes: bool = False) -> None:
        self.allow_changes = allow_changes
        self._resumed: Dict[str, Any] = {}
        self._batches_done = 0
        self._identity: Optional[Dict[str, str]] = None
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

    def before_run(self, runner: Any) -> None:
        """Choose the checkpoint and check that it can be read.

        Raises:
            CheckpointError: If it cannot be read.
        """
        cleanup_stack(runner)
        path = starting_checkpoint(runner)
        if path is not None:
            read_checkpoint(path)
        elif is_resuming(runner):
            # Only one process looks: on a shared file system others may not see the newest file yet.
            found = [newest_checkpoint(runner.work_dir) if dist.is_main_process() else None]
            dist.broadcast_object_list(found)
            resume_from(runner, found[0])

    def after_load_checkpoint(self, runner: Any, checkpoint: Dict[str, Any]) -> None:
        """Compare the model with the checkpoint's.

        Raises:
            ValueError: If they differ and ``allow_changes`` is False, or if ``load_from`` has no weights of the model.
        """
        loaded = checkpoint.get('state_dict', checkpoint)
        states = (
            {str(key).removeprefix('module.'): value for key, value in loaded.items()},
            unwrap(runner.model).state_dict(),
        )
        shapes = [{key: tuple(getattr(value, 'shape', ())) for key, value in state.items()} for state in states]
        if not is_resuming(runner):
            _check_loaded(runner, *shapes)
            return
        self._resumed = checkpoint['meta']
        changes = differences(self._resumed.get('distillation', {}), self._identify(runner)) + differences(*shapes)
        if not changes:
            return
        listed = '\n'.join(f'  {line}' for line in changes[:10])
        rest = f'\n  ... and {len(changes) - 10} more' if len(changes) > 10 else ''
        message = f'The run of {starting_checkpoint(runner)!r} was started with a different model:\n{listed}{rest}\n'
        if not self.allow_changes:
            raise ValueError(
                message + 'Resume with the original options, or train in another work dir. To resume with the changes, '
                'add --cfg-options default_hooks.resume.allow_changes=True.'
            )
        runner.logger.warning(message + 'Resuming with the changes, since allow_changes=True.')

    def before_train(self, runner: Any) -> None:
        """Seed the samples, and restore the order and the position of the data loader."""
        meta, loader = self._resumed, runner.train_dataloader
        by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        # Without epochs mmengine replays the batches before, and its fork skips them.
        skips = hasattr(getattr(runner.train_loop, 'dataloader_iterator', None), 'skip_iter')
        items = SeededItems(loader.dataset, runner.seed, self._epoch if by_epoch else None, runner.iter * skips)
        patch(runner, loader.dataset, '__getitems__', items)
        if not meta:
            return
        # Without a seed in the config, both were built with a random seed of this process.
        if meta.get('sampler_seed') is not None and hasattr(loader.sampler, 'seed'):
            patch(runner, loader.sampler, 'seed', meta['sampler_seed'])
        init = loader.worker_init_fn
        if 'seed' in getattr(init, 'keywords', {}):
            patch(runner, loader, 'worker_init_fn', functools.partial(init, seed=runner.seed))
        done, length = meta.get('batches_done', 0), meta.get('epoch_batches')
        self._batches_done = done
        # mmengine's iteration-based loop skips batches itself.
        if done and by_epoch:
            self._batches_done = done if length == len(loader) else done * len(loader) // length
            batches = loader.batch_sampler
            patch(runner, batches, 'sampler', SkipFirst(batches.sampler, self._batches_done * batches.batch_size))
            runner.logger.info(
                f'Resuming within epoch {runner.epoch + 1}, after {self._batches_done} of its {len(loader)} batches.'
            )

    def before_train_epoch(self, runner: Any) -> None:
        """Seed the order of samples, for samplers that draw it from the global random state, and the samples."""
        set_random_seed(seed_of(runner.seed, max(0, runner.iter - self._batches_done)))
        self._epoch.fill_(runner.epoch)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Seed the iteration: batch augmentation, dropout and drop path."""
        set_random_seed(seed_of(runner.seed, runner.iter, 1))

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self._batches_done += 1

    def after_train_epoch(self, runner: Any) -> None:
        self._batches_done = 0

    def before_save_checkpoint(self, runner: Any, checkpoint: Dict[str, Any]) -> None:
        """Save what resuming needs."""
        loader = runner.train_dataloader
        checkpoint['meta'].update(
            distillation=self._identify(runner),
            sampler_seed=getattr(loader.sampler, 'seed', None),
            batches_done=self._batches_done,
            epoch_batches=len(loader),
        )

    def _identify(self, runner: Any) -> Dict[str, str]:
        """Return the options of the model config and a fingerprint of the teacher's weights."""
        if self._identity is None:
            self._identity = dict(flat_options(runner.cfg.get('model'), 'model'))
            model = distiller_of(runner)
            if model is not None:
                self._identity['weights of the teacher'] = fingerprint(model.teacher.model)
        return self._identity


def _check_loaded(runner: Any, there: Dict[str, tuple], own: Dict[str, tuple]) -> None:
    """Raise a ValueError if no tensor of ``load_from`` fits the model, and warn if some do not."""
    missing = [key for key, shape in own.items() if there.get(key) != shape]
    source, count = starting_checkpoint(runner), len(own) - len(missing)
    if not count:
        raise ValueError(
            f'load_from={source!r} has no weights of this model: the first of its {len(there)} tensors is '
            f'{next(iter(there), None)!r}, the first of the model {next(iter(own))!r}. For a student or teacher that '
            "starts from weights, set its 'checkpoint' instead."
        )
    if missing:
        runner.logger.warning(
            f'load_from={source!r} has {count} of the {len(own)} tensors of this model. Not loaded: '
            f'{", ".join(missing[:10])}{", ..." if len(missing) > 10 else ""}'
        )
