# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""A run with data workers exits, whatever ended it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BOTH = "default_hooks.interrupt.signals=['SIGTERM','SIGINT']"
#: Options of a run, the signal that is sent to it and its workers once it trains, its exit code, the end of its output.
ENDS = {
    'success': (['train_cfg.max_epochs=1'], None, 0, 'last_checkpoint'),
    'error': (['optim_wrapper.optimizer.lr=1e30'], None, 1, 'FloatingPointError: The loss is'),
    'SIGTERM': ([], signal.SIGTERM, 128 + signal.SIGTERM, 'SIGTERM: saved. Continue with --resume.'),
    'SIGINT': ([BOTH], signal.SIGINT, 128 + signal.SIGINT, 'SIGINT: saved. Continue with --resume.'),
    # Where it comes while mmengine lays out a config, it becomes a SyntaxError.
    'Ctrl-C': ([], signal.SIGINT, (-signal.SIGINT, 1), 'KeyboardInterrupt'),
}


def start(folder, options, persistent):
    command = [sys.executable, 'tools/train.py', 'configs/quickstart/vit_digits.py', '--work-dir', str(folder)]
    command += ['--cfg-options', 'train_cfg.max_epochs=100000', 'train_dataloader.dataset.indices=256']
    command += ['val_dataloader.dataset.indices=64', 'default_hooks.logger.interval=1']
    for loader in ('train_dataloader', 'val_dataloader'):
        command += [f'{loader}.num_workers=2', f'{loader}.persistent_workers={persistent}']
    with open(f'{folder}.log', 'w') as log:
        return subprocess.Popen(
            [*command, *options],
            cwd=ROOT,
            env={**os.environ, 'PYTHONPATH': str(ROOT)},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


@pytest.mark.parametrize('persistent', [True, False])
def test_exits(tmp_path, persistent):
    runs = {end: start(tmp_path / end, options, persistent) for end, (options, *_) in ENDS.items()}
    logs = {end: tmp_path / f'{end}.log' for end in ENDS}
    deadline = time.monotonic() + 120
    waiting = [end for end, (_, number, *_) in ENDS.items() if number is not None]
    try:
        while waiting:
            assert time.monotonic() < deadline, f'{waiting[0]} did not begin:\n{logs[waiting[0]].read_text()[-2000:]}'
            time.sleep(0.1)
            for end in [end for end in waiting if 'Epoch(val) [3]' in logs[end].read_text()]:
                os.killpg(runs[end].pid, ENDS[end][1])  # As a scheduler and a terminal send it.
                waiting.remove(end)
        for end, run in runs.items():
            _, _, code, text = ENDS[end]
            try:
                run.wait(max(1.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                pytest.fail(f'{end}: it did not exit. Its log ends:\n{logs[end].read_text()[-2000:]}')
            log = logs[end].read_text()
            assert run.returncode in (code if isinstance(code, tuple) else (code,)), log[-3000:]
            assert text in (log if end != 'success' else os.listdir(tmp_path / end)), log[-3000:]
    finally:
        for run in runs.values():
            if run.poll() is None:
                os.killpg(run.pid, signal.SIGKILL)
