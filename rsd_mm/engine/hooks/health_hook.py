# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Stop diverged runs and report collapsed features."""

import functools
import math
import os
import re
from typing import Any, Dict, List, Tuple

import mmengine.dist as dist
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import Tensor

from rsd_mm.engine.cleanup import cleanup_stack, patch
from rsd_mm.engine.runner import distiller_of, is_resuming, starting_checkpoint


@HOOKS.register_module()
class HealthHook(Hook):
    """Stop a run whose loss is NaN or inf, and report constant features.

    - A total loss that is not finite stops the run after that iteration. The error names the terms and features, the
      iteration, the learning rate and the last good checkpoint. Weights that are not finite are never saved.
    - Features with a standard deviation over the batch below ``min_std`` are constant. They are counted every
      ``interval`` iterations; a student whose features are all constant, and a teacher with any, is logged as a
      warning.

    Gradients that overflow in mixed precision while the loss is finite are left to the loss scaler.

    Accelerators are synchronized no more often than by mmengine's own log, which reads every loss in every iteration,
    except with ``max_skips``, which needs the loss before the optimizer step.

    Args:
        max_skips (int): Number of batches with a non-finite loss (in any process) to skip before stopping. They change
            neither the weights nor the statistics of normalization layers, and do not count for gradient accumulation.
            Defaults to 0.
        interval (int): Iterations between two checks for constant features. Defaults to 100.
        min_std (float): Standard deviation below which a feature is constant. Defaults to 1e-4, ten times RSD's eps.
    """

    # Before RuntimeInfoHook logs the losses.
    priority = 'HIGHEST'

    def __init__(self, max_skips: int = 0, interval: int = 100, min_std: float = 1e-4) -> None:
        self.max_skips = max_skips
        self.interval = interval
        self.min_std = min_std
        self._skips = self._iterations = 0
        self._skipped = False
        self._finite: Dict[str, Tensor] = {}
        self._constant: Dict[str, Tuple[Tensor, int]] = {}
        self._reported: List[str] = []
        self._buffers: List[Tensor] = []

    def before_run(self, runner: Any) -> None:
        cleanup_stack(runner)

    def before_train(self, runner: Any) -> None:
        """Observe the features and, with ``max_skips``, the optimizer's updates until training ends."""
        model = distiller_of(runner)
        if model is not None:
            patch(runner, model, 'observe', self._observe)
        if self.max_skips:
            wrapper = runner.optim_wrapper
            patch(runner, wrapper, 'update_params', functools.partial(self._update, runner, wrapper.update_params))

    def _observe(self, features: Dict[str, Tensor]) -> None:
        features = {name: feature.detach() for name, feature in features.items()}
        self._finite = {name: torch.isfinite(x).all() for name, x in features.items()}
        if self._iterations % self.interval == 0:
            self._constant = {
                name: ((x.float().std(dim=0, unbiased=False) < self.min_std).sum(), x[0].numel())
                for name, x in features.items()
            }

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Keep the buffers, which the forward of a bad batch would spoil."""
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

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Check the loss.

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
            runner.logger.warning(f'{message} Skipping the batch ({self._skips} of at most {self.max_skips}).')
            outputs.clear()  # A NaN would stay in the log's running averages.
            return
        raise FloatingPointError(
            f'{message} {_last_good(runner)} Lower the learning rate or the loss weight, or train in higher '
            'precision; default_hooks.health.max_skips=N skips up to N bad batches.'
        )

    def _describe(self, runner: Any, outputs: Dict[str, Any]) -> str:
        bad = [name for name, value in outputs.items() if name != 'loss' and not math.isfinite(float(value.detach()))]
        bad += [f'the {name}' for name, finite in self._finite.items() if not finite]
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
            what = 'They carry no information.' if teacher else 'The student has collapsed.'
            runner.logger.warning(
                f'{constant} of the {width} features of the {name} are constant over the batch at iteration '
                f'{runner.iter + 1} (standard deviation below {self.min_std:g}). {what}'
            )
        self._constant = {}

    def before_save_checkpoint(self, runner: Any, checkpoint: Dict[str, Any]) -> None:
        """Check the weights.

        Raises:
            FloatingPointError: If any is not finite.
        """
        state = checkpoint['state_dict']
        bad = [key for key, x in state.items() if x.is_floating_point() and not torch.isfinite(x).all()]
        if bad:
            raise FloatingPointError(
                f'{len(bad)} of the tensors to save after iteration {checkpoint["meta"]["iter"]} contain NaN or inf, '
                f'the first is {bad[0]}. They are not saved. {_last_good(runner)}'
            )


def _last_good(runner: Any) -> str:
    folder = os.path.dirname(runner.message_hub.runtime_info.get('last_ckpt', '')) or runner.work_dir
    names = os.listdir(folder) if os.path.isdir(folder) else []
    # Neither the best one, which has no optimizer state, nor an exported student.
    saved = [os.path.join(folder, name) for name in names if re.fullmatch(r'(\w+_\d+|interrupted)\.pth', name)]
    saved = [path for path in saved if not os.path.basename(path).startswith('best_')]
    last = max(saved, key=os.path.getmtime, default=starting_checkpoint(runner) if is_resuming(runner) else None)
    return f'The last good checkpoint is {last!r}.' if last else 'No checkpoint has been saved yet.'
