# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Is what is being trained still alive?"""

import functools
import glob
import math
import os
from typing import Any, Dict, List, Optional, Tuple

import mmengine.dist as dist
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import Tensor

from rsd_mm.models.distillers import Distiller
from rsd_mm.utils.config import unwrap


@HOOKS.register_module()
class HealthHook(Hook):
    """Stops a run whose loss is NaN or inf, and reports features that say nothing.

    - A total that is not finite stops the run after that iteration. The message
      names the terms and features, the iteration, the learning rate and the last
      good checkpoint. Weights that are not finite are never saved.
    - Features whose deviation over a batch is below ``min_std`` are constant to
      RSD's eps of 1e-5. Every ``interval`` iterations they are counted; a student
      that has collapsed to them, and a teacher that has any, is named in the log.

    Gradients that overflow in mixed precision while the loss is finite are the
    loss scaler's business, which leaves out the step and lowers the scale.

    Nothing here waits for an accelerator more than mmengine's own log, which reads
    every loss in every iteration, except for ``max_skips``: to leave a batch out,
    its loss has to be known before the step.

    Args:
        max_skips (int): Leave out this many batches of which the loss is not
            finite (in any process), before stopping. Neither the weights nor the
            statistics of normalization layers see them. Defaults to 0.
        interval (int): Iterations between two looks at the features. Defaults to
            100.
        min_std (float): The deviation under which a feature counts as constant.
            Defaults to 1e-4, ten times RSD's eps.
    """

    # Before RuntimeInfoHook logs the losses.
    priority = 'HIGHEST'

    def __init__(self, max_skips: int = 0, interval: int = 100, min_std: float = 1e-4) -> None:
        self.max_skips = max_skips
        self.interval = interval
        self.min_std = min_std
        self._skips = self._iterations = 0
        self._skipped = False
        self._finite: Tuple[List[str], Optional[Tensor]] = [], None
        self._constant: Dict[str, Tuple[Tensor, int]] = {}
        self._reported: List[str] = []
        self._buffers: List[Tensor] = []

    def before_train(self, runner: Any) -> None:
        """Begin to look."""
        model = unwrap(runner.model)
        # What they check themselves is reported here, with more of the circumstances.
        for module in model.modules():
            if getattr(module, 'check_finite', False) is True:
                module.check_finite = False
        if isinstance(model, Distiller):
            model.observe = self._observe
        if self.max_skips:
            wrapper = runner.optim_wrapper
            wrapper.update_params = functools.partial(self._update, runner, wrapper.update_params)

    def after_train(self, runner: Any) -> None:
        """Look no longer."""
        model = unwrap(runner.model)
        if isinstance(model, Distiller):
            model.observe = None

    def _observe(self, features: Dict[str, Tensor]) -> None:
        features = {name: feature.detach() for name, feature in features.items()}
        self._finite = list(features), torch.stack([torch.isfinite(x).all() for x in features.values()])
        if self._iterations % self.interval == 0:
            self._constant = {
                name: ((x.float().std(dim=0, unbiased=False) < self.min_std).sum(), x[0].numel())
                for name, x in features.items()
            }

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Keep what a bad batch would spoil in the forward pass."""
        self._skipped = False
        if self.max_skips:
            self._buffers = [buffer.clone() for buffer in runner.model.buffers()]

    def _update(self, runner: Any, update: Any, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        finite = torch.isfinite(loss.detach()).int()
        dist.all_reduce(finite, 'min')
        self._skipped = not finite
        if not self._skipped:
            update(loss, *args, **kwargs)
            return
        for buffer, kept in zip(runner.model.buffers(), self._buffers):
            buffer.copy_(kept)
        runner.optim_wrapper._inner_count += 1  # which gradient accumulation counts by

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Look at the loss.

        Raises:
            FloatingPointError: If it is not finite.
        """
        self._iterations += 1
        if not outputs or 'loss' not in outputs:
            return
        if math.isfinite(float(outputs['loss'].detach())) and not self._skipped:
            self._report_constant(runner)
            return
        message = self._describe(runner, outputs)
        if self._skipped and self._skips < self.max_skips:
            self._skips += 1
            runner.logger.warning(f'{message} The batch is left out ({self._skips} of at most {self.max_skips}).')
            outputs.clear()  # one nan would be in the log's averages for long
            return
        raise FloatingPointError(
            f'{message} {_last_good(runner)} Lower the learning rate or the loss weight, or train in higher '
            'precision; single bad batches are left out with default_hooks.health.max_skips=N.'
        )

    def _describe(self, runner: Any, outputs: Dict[str, Any]) -> str:
        bad = [name for name, value in outputs.items() if name != 'loss' and not math.isfinite(float(value.detach()))]
        names, flags = self._finite
        if flags is not None:
            bad += [f'the {name}' for name, finite in zip(names, flags.tolist()) if not finite]
        rate = next(iter(runner.optim_wrapper.get_lr().values()))[0]
        return (
            f'The loss is {float(outputs["loss"].detach())} at iteration {runner.iter + 1} (epoch {runner.epoch + 1}, '
            f'learning rate {rate:.4g}). Not finite: {", ".join(bad) or "the loss of another process"}.'
        )

    def _report_constant(self, runner: Any) -> None:
        for name, (count, width) in self._constant.items():
            constant, teacher = int(count), name.startswith('teacher')
            if name in self._reported or not constant or not (teacher or constant == width):
                continue
            self._reported.append(name)
            what = 'Such a feature teaches nothing.' if teacher else 'The student has collapsed.'
            runner.logger.warning(
                f'{constant} of the {width} features of the {name} are constant over the batch at iteration '
                f'{runner.iter + 1} (deviation below {self.min_std:g}). {what}'
            )
        self._constant = {}

    def before_save_checkpoint(self, runner: Any, checkpoint: Dict[str, Any]) -> None:
        """Keep weights that are not finite off the disk.

        Raises:
            FloatingPointError: If there are any.
        """
        bad = [
            key for key, x in checkpoint['state_dict'].items() if x.is_floating_point() and not torch.isfinite(x).all()
        ]
        if bad:
            raise FloatingPointError(
                f'{len(bad)} of the tensors to be saved after iteration {checkpoint["meta"]["iter"]} hold NaN or inf, '
                f'the first is {bad[0]}. They are not saved. {_last_good(runner)}'
            )


def _last_good(runner: Any) -> str:
    folder = os.path.dirname(runner.message_hub.runtime_info.get('last_ckpt', '')) or runner.work_dir
    found = [path for path in glob.glob(os.path.join(glob.escape(folder), '*.pth')) if 'best_' not in path]
    last = max(found, key=os.path.getmtime, default=runner._load_from if runner._resume else None)
    return f'The last good checkpoint is {last!r}.' if last else 'No checkpoint was saved yet.'
