# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""The hooks around a model in DDP: two processes, of which one alone is told to leave, or meets a bad batch."""

import os
import signal
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from rsd_mm.utils import read_checkpoint


def build(config, **options):
    cfg = Config.fromfile(config)
    cfg.launcher = 'pytorch'
    cfg.model_wrapper_cfg = dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False)
    cfg.merge_from_dict(options)
    return Runner.from_cfg(cfg)


def leave_and_go_on(rank, world, config):
    runner = build(config, **{'default_hooks.interrupt.interval': 3, 'experiment_name': 'first'})
    step = runner.model.train_step

    def train_step(*args, **kwargs):
        if rank == 1 and runner.iter == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*args, **kwargs)

    runner.model.train_step = train_step
    with pytest.raises(SystemExit) as left:
        runner.train()
    assert left.value.code == 143
    meta = read_checkpoint(Path(runner.work_dir) / 'interrupted.pth')['meta']
    # Two batches an epoch and process; agreed after the third.
    assert (meta['epoch'], meta['iter'], meta['batches_done']) == (1, 3, 1)

    runner = build(config, resume=True, experiment_name='second')
    runner.train()
    assert (runner.epoch, runner.iter) == (3, 6)


def leave_out_bad_batches(rank, world, config):
    runner = build(
        config, **{'default_hooks.health.max_skips': 1, 'experiment_name': 'third', 'work_dir': f'{config}.2'}
    )
    preprocess = runner.model.module.data_preprocessor.forward

    def forward(data, training=False):
        data = preprocess(data, training)
        if rank == 1 and training and runner.iter in (2, 4):
            data['inputs'] = data['inputs'] * float('nan')
        return data

    runner.model.module.data_preprocessor.forward = forward
    where = 'the loss of another process' if rank == 0 else 'loss_task'
    with pytest.raises(FloatingPointError, match=rf'at iteration 5 \(epoch 3, .*Not finite: {where}'):
        runner.train()
    meta = read_checkpoint(Path(runner.work_dir) / 'epoch_2.pth')
    assert meta['optimizer']['state'][0]['step'] == 3


def both(rank, world, config):
    leave_and_go_on(rank, world, config)
    leave_out_bad_batches(rank, world, config)


def test_one_of_two_processes(digits_config, tmp_path, run_ranks):
    digits_config(epochs=3).dump(tmp_path / 'config.py')
    run_ranks(both, 2, str(tmp_path / 'config.py'))
