# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Save a checkpoint on SIGTERM, then exit."""

import functools
import os
import signal
import threading
from typing import Any, Callable, Optional, Sequence

import mmengine.dist as dist
import torch
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import HOOKS

from rsd_mm.engine.cleanup import cleanup_stack, patch


@HOOKS.register_module()
class InterruptHook(Hook):
    """Save ``interrupted.pth`` on SIGTERM, then exit.

    Schedulers send SIGTERM before they reclaim a machine. The checkpoint is saved at the end of the iteration, or of
    the first one after validation; ``--resume`` continues within the epoch. The exit status is 128 plus the signal's
    number. A second signal ends the process at once.

    With several processes, a signal to one of them is enough: they synchronize every ``interval`` iterations, and exit
    once the checkpoint is written.

    Args:
        signals (Sequence[str]): Signals to handle. Defaults to ``('SIGTERM', )``; add ``'SIGINT'`` for Ctrl-C.
        interval (int): Iterations between two synchronizations of several processes. Defaults to 10.

    Raises:
        ValueError: For an unknown signal.
    """

    # After everything else of an iteration: the averaged weights, the schedulers.
    priority = 'LOWEST'

    def __init__(self, signals: Sequence[str] = ('SIGTERM',), interval: int = 10) -> None:
        for name in [signals] if isinstance(signals, str) else signals:
            if name not in signal.Signals.__members__:
                raise ValueError(
                    f"InterruptHook: signals is a list of names such as 'SIGTERM' or 'SIGINT', received {name!r}."
                )
        self.numbers = [int(signal.Signals[name]) for name in signals]
        self.interval = interval
        self._received = 0

    def before_run(self, runner: Any) -> None:
        cleanup_stack(runner)

    def before_train(self, runner: Any) -> None:
        """Install the handlers, here and in the data workers, until training ends."""
        if threading.current_thread() is not threading.main_thread():
            return  # Python delivers signals to the main thread only.
        self._received = 0
        cleanup = cleanup_stack(runner)
        for number in self.numbers:
            cleanup.callback(signal.signal, number, signal.signal(number, self._receive))
        training = torch.ones(1, dtype=torch.uint8).share_memory_()  # Workers see when it becomes 0.
        cleanup.callback(training.zero_)
        for loop in (runner.train_loop, runner.val_loop):
            if loop is not None:
                start = functools.partial(_start_worker, self.numbers, training, loop.dataloader.worker_init_fn)
                patch(runner, loop.dataloader, 'worker_init_fn', start)

    def _receive(self, number: int, frame: Any) -> None:
        if self._received:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._received = number

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Save and exit if a signal was received."""
        number = self._received
        if dist.get_world_size() > 1:
            if (runner.iter + 1) % self.interval:
                return
            highest = torch.tensor(number)
            dist.all_reduce(highest, 'max')
            number = int(highest)
        if not number:
            return
        hooks = [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]
        folder = hooks[0].out_dir if hooks else runner.work_dir
        name = signal.Signals(number).name
        runner.logger.warning(f'{name}: saving {os.path.join(folder, "interrupted.pth")!r} before exiting.')
        runner.save_checkpoint(
            folder,
            'interrupted.pth',
            meta=dict(epoch=runner.epoch, iter=runner.iter + 1),
            by_epoch=False,
            backend_args=hooks[0].backend_args if hooks else None,
        )
        dist.barrier()  # The launcher ends the process that is writing once another exits.
        runner.logger.warning(f'{name}: saved. Continue with --resume.')
        raise SystemExit(128 + number)


def _start_worker(
    numbers: Sequence[int], training: torch.Tensor, init: Optional[Callable[[int], None]], worker: int
) -> None:
    """Keep a data worker alive while its parent trains: a signal to the job often reaches the workers as well."""

    def survive(number: int, frame: Any) -> None:
        if not training:
            os._exit(0)  # As torch's own handler does; otherwise the parent would wait for the worker forever.

    for number in numbers:
        signal.signal(number, survive)
    if init is not None:
        init(worker)
