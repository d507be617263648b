# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""A resumed run is the run that was interrupted."""

import hashlib
import itertools
import os
from typing import Any, Dict, Iterator, List, Optional

import mmengine.dist as dist
import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, set_random_seed

from rsd_mm.models.distillers import Distiller
from rsd_mm.utils.checkpoint import newest_checkpoint, read_checkpoint
from rsd_mm.utils.config import unwrap


@HOOKS.register_module()
class ResumeHook(Hook):
    """Lets a run go on from where it was interrupted, as if it had not been.

    - ``--resume`` takes the newest complete checkpoint. One that is truncated or
      damaged is reported and the one before it taken.
    - A run that was begun with another model (teacher, its weights, kappa,
      projector, ...) is refused with the differences.
    - Every epoch draws its random numbers from the run's seed and the iteration it
      begins at, so that it draws the same ones whether or not the run was resumed
      before it, and whether or not it validates. Data workers that persist over
      epochs keep streams of their own, which begin anew when they do
      (``--no-persistent-workers`` avoids that).
    - From a checkpoint in the middle of an epoch, the rest of that epoch is
      trained: the same order of images, each of them once.

    Args:
        allow_changes (bool): Resume with a changed model all the same, with a
            warning. Defaults to False.
    """

    priority = 'VERY_HIGH'

    def __init__(self, allow_changes: bool = False) -> None:
        self.allow_changes = allow_changes
        self._resumed: Dict[str, Any] = {}
        self._batches_done = 0
        self._identity: Optional[Dict[str, str]] = None

    def before_run(self, runner: Any) -> None:
        """Choose the checkpoint, and see that it can be read.

        Raises:
            CheckpointError: If it can't be; the message says what the file is.
        """
        if runner._resume and runner._load_from is None:
            # One process looks: files may appear later on other machines.
            found = [newest_checkpoint(runner.work_dir) if dist.is_main_process() else None]
            dist.broadcast_object_list(found)
            runner._load_from = found[0]
        elif runner._load_from is not None:
            read_checkpoint(runner._load_from)

    def after_load_checkpoint(self, runner: Any, checkpoint: Dict[str, Any]) -> None:
        """Compare the model with that of the checkpoint.

        Raises:
            ValueError: If they differ; the differences are shown.
        """
        if not runner._resume:
            return
        self._resumed = checkpoint['meta']
        differences = _differences(self._resumed.get('distillation', {}), self._identify(runner))
        own = {key: tuple(value.shape) for key, value in unwrap(runner.model).state_dict().items()}
        there = {key: tuple(value.shape) for key, value in checkpoint['state_dict'].items()}
        differences += _differences(there, own)
        if not differences:
            return
        listed = '\n'.join(f'  {line}' for line in differences[:10])
        rest = f'\n  ... and {len(differences) - 10} more' if len(differences) > 10 else ''
        message = f'The run of {runner._load_from!r} was begun with another model than this one:\n{listed}{rest}\n'
        if not self.allow_changes:
            raise ValueError(
                message + 'Resume with what it was begun with, or train in another work dir. To go on with the '
                'change all the same, add --cfg-options default_hooks.resume.allow_changes=True.'
            )
        runner.logger.warning(message + 'It goes on with the change, as allow_changes=True says.')

    def before_train(self, runner: Any) -> None:
        """Give the data loader the order that it had, from where it was."""
        meta, loader = self._resumed, runner.train_dataloader
        if not meta:
            return
        # Those of a run without a seed in its config were made from another one when they were built.
        if meta.get('sampler_seed') is not None and hasattr(loader.sampler, 'seed'):
            loader.sampler.seed = meta['sampler_seed']
        if 'seed' in getattr(loader.worker_init_fn, 'keywords', {}):
            loader.worker_init_fn.keywords['seed'] = runner.seed
        done, length = meta.get('batches_done', 0), meta.get('epoch_batches')
        # mmengine's iteration-based loop skips what was trained itself.
        if done and isinstance(runner.train_loop, EpochBasedTrainLoop):
            self._batches_done = done if length == len(loader) else done * len(loader) // length
            batches = loader.batch_sampler
            batches.sampler = _SkipsFirst(batches.sampler, self._batches_done * batches.batch_size)
            runner.logger.info(
                f'Going on within epoch {runner.epoch + 1}: {self._batches_done} of its {len(loader)} batches '
                'were trained before.'
            )

    def before_train_epoch(self, runner: Any) -> None:
        """Seed what the epoch draws."""
        set_random_seed(int(np.random.SeedSequence((runner.seed, runner.iter)).generate_state(1)[0]))

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Count."""
        self._batches_done += 1

    def after_train_epoch(self, runner: Any) -> None:
        """Count anew."""
        self._batches_done = 0

    def before_save_checkpoint(self, runner: Any, checkpoint: Dict[str, Any]) -> None:
        """Note what resuming needs."""
        loader = runner.train_dataloader
        checkpoint['meta'].update(
            distillation=self._identify(runner),
            sampler_seed=getattr(loader.sampler, 'seed', None),
            batches_done=self._batches_done,
            epoch_batches=len(loader),
        )

    def _identify(self, runner: Any) -> Dict[str, str]:
        """What makes the run the run that it is: its model's options, and the teacher's weights."""
        if self._identity is None:
            self._identity = dict(_flat(runner.cfg.get('model'), 'model'))
            model = unwrap(runner.model)
            if isinstance(model, Distiller):
                self._identity['weights of the teacher'] = _fingerprint(model.teacher.model)
        return self._identity


class _SkipsFirst:
    """A sampler that leaves out its first samples when it is first gone through."""

    def __init__(self, sampler: Any, skipped: int) -> None:
        self.sampler = sampler
        self.skipped = skipped

    def __iter__(self) -> Iterator[int]:
        skipped, self.skipped = self.skipped, 0
        return itertools.islice(self.sampler, skipped, None)

    def __len__(self) -> int:
        return len(self.sampler)


def _flat(value: Any, path: str) -> Iterator[Any]:
    """Every option of a config by its path. Of files only the names count: they may have moved."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key == 'cfg_path':
                item = os.path.basename(item)
            # The teacher's weights themselves are compared; how fast it all is may change.
            if key not in ('checkpoint', 'pretrained', 'compile', 'channels_last'):
                yield from _flat(item, f'{path}.{key}')
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _flat(item, f'{path}.{i}')
    else:
        yield path, repr(value)


def _fingerprint(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for key, value in model.state_dict().items():
        digest.update(key.encode())
        digest.update(value.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _differences(then: Dict[str, Any], now: Dict[str, Any]) -> List[str]:
    if not then:  # a checkpoint that was written without this hook
        return []
    changed = [key for key in {**then, **now} if then.get(key) != now.get(key)]
    return [f'{key}: {then.get(key, "not there")} then, {now.get(key, "not there")} now' for key in changed]
