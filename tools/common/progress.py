# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Progress bars of runners."""

from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from tqdm import tqdm


class ProgressHook(Hook):
    """Progress bar over the epochs of training, or the batches of a test; only on a terminal."""

    priority = 'VERY_LOW'

    def __init__(self, label: str) -> None:
        self.label = label

    def _start(self, total: int, unit: str) -> None:
        disable = None if is_main_process() else True
        self.bar = tqdm(total=total, desc=self.label, unit=unit, leave=unit == 'batch', disable=disable)

    def before_train(self, runner: Runner) -> None:
        self._start(runner.max_epochs, 'epoch')

    def after_train_epoch(self, runner: Runner) -> None:
        self.bar.update()

    def after_val_epoch(self, runner: Runner, metrics: Any = None) -> None:
        self.bar.set_postfix_str(f'top-1 {metrics["accuracy/top1"]:.1f} %')

    def after_train(self, runner: Runner) -> None:
        self.bar.close()

    def before_test(self, runner: Runner) -> None:
        self._start(len(runner.test_dataloader), 'batch')

    def after_test_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        self.bar.update()

    def after_test(self, runner: Runner) -> None:
        self.bar.close()
