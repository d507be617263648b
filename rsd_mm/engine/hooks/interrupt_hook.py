# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""A checkpoint before leaving."""

import functools
import os
import signal
import threading
from typing import Any, Callable, Optional, Sequence

import mmengine.dist as dist
import torch
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import HOOKS

from rsd_mm.engine.cleanup import cleanup_stack


@HOOKS.register_module()
class InterruptHook(Hook):
    """Saves ``interrupted.pth`` when the run is told to leave, and leaves.

    Schedulers send SIGTERM some time before they take a machine. At the end of the
    iteration a checkpoint is written, from which ``--resume`` goes on within the
    epoch, and the process exits with 128 + the signal's number, as a shell would
    say. A signal during validation is heeded after the first iteration that
    follows it. A second signal ends the process at once.

    Of several processes one that is told is enough: they agree at every
    ``interval``-th iteration, and wait until the checkpoint is written.

    Args:
        signals (Sequence[str]): What is heeded. Defaults to ``('SIGTERM', )``; add
            ``'SIGINT'`` for Ctrl-C.
        interval (int): Iterations between two agreements of several processes.
            Defaults to 10.

    Raises:
        ValueError: For a signal that does not exist.
    """

    # After all that belongs to an iteration: the average of weights, the schedulers.
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
        """Have restored what ``before_train`` changes, however training ends."""
        self._cleanup = cleanup_stack(runner)

    def before_train(self, runner: Any) -> None:
        """Install the handlers, here and in the data workers."""
        if threading.current_thread() is not threading.main_thread():
            return  # Python hands signals to the main thread only.
        self._received = 0
        for number in self.numbers:
            self._cleanup.callback(signal.signal, number, signal.signal(number, self._note))
        training = torch.ones(1, dtype=torch.uint8).share_memory_()  # Workers see when it becomes 0.
        self._cleanup.callback(training.zero_)
        for loop in (runner.train_loop, runner.val_loop):
            if loop is not None:
                init = loop.dataloader.worker_init_fn
                self._cleanup.callback(setattr, loop.dataloader, 'worker_init_fn', init)
                loop.dataloader.worker_init_fn = functools.partial(_start_worker, self.numbers, training, init)

    def _note(self, number: int, frame: Any) -> None:
        if self._received:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._received = number

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Leave, if that is what was asked for."""
        number = self._received
        if dist.get_world_size() > 1:
            if (runner.iter + 1) % self.interval:
                return
            asked = torch.tensor(number)
            dist.all_reduce(asked, 'max')
            number = int(asked)
        if not number:
            return
        hooks = [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]
        folder = hooks[0].out_dir if hooks else runner.work_dir
        name = signal.Signals(number).name
        runner.logger.warning(f'{name}: saving {os.path.join(folder, "interrupted.pth")!r} and leaving.')
        runner.save_checkpoint(
            folder,
            'interrupted.pth',
            meta=dict(epoch=runner.epoch, iter=runner.iter + 1),
            by_epoch=False,
            backend_args=hooks[0].backend_args if hooks else None,
        )
        dist.barrier()  # a process that leaves earlier would have the launcher end the one that writes
        runner.logger.warning(f'{name}: saved. Go on with --resume.')
        raise SystemExit(128 + number)


def _start_worker(
    numbers: Sequence[int], training: torch.Tensor, init: Optional[Callable[[int], None]], worker: int
) -> None:
    """Keep a data worker alive while its parent trains: a signal to the job often reaches the workers as well."""

    def survive(number: int, frame: Any) -> None:
        if not training:
            os._exit(0)  # As torch's own handler does, without which the parent would wait for the worker for ever.

    for number in numbers:
        signal.signal(number, survive)
    if init is not None:
        init(worker)
