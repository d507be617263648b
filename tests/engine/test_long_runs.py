# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Runs that repeat, and runs that go on for long."""

import copy
import json
import pickle
import resource
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook


def scalars(runner, tmp_path, work):
    """What a run logged, without what it cannot repeat: times."""
    path = tmp_path / work / runner.timestamp / 'vis_data' / 'scalars.json'
    return [
        {key: value for key, value in json.loads(line).items() if 'time' not in key}
        for line in path.read_text().splitlines()
    ]


def test_two_deterministic_runs_log_the_same(make_runner, tmp_path):
    logs = []
    try:
        for work in ('one', 'two'):
            runner = make_runner(
                work=work, ema=False, randomness__deterministic=True, default_hooks__logger__interval=1
            )
            runner.train()
            logs.append(scalars(runner, tmp_path, work))
    finally:
        torch.use_deterministic_algorithms(False)
    assert len(logs[0]) == 10  # 8 iterations, 2 validations
    assert all('loss_rsd' in line for line in logs[0] if 'loss' in line)
    assert logs[0] == logs[1]


def hooks_on(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_after_a_run_a_distiller_is_as_before(make_runner):
    runner = make_runner(epochs=1, ema=False)
    model = runner.model
    runner.train()
    assert hooks_on(model) == hooks_on(model.teacher.model) == 0
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), twin.state_dict().values()))


def test_two_distillers_in_a_process_do_not_disturb_each_other(make_distiller, batch):
    inputs, samples = batch()

    def losses(distiller):
        torch.manual_seed(1)
        return distiller.train()(inputs, copy.deepcopy(samples), mode='loss')

    first, second = make_distiller(), make_distiller(loss=dict(kappa=0.5))
    alone = [losses(copy.deepcopy(distiller))['loss_rsd'] for distiller in (first, second)]
    for distiller, expected in ((first, alone[0]), (second, alone[1])):
        losses(second if distiller is first else first)
        torch.testing.assert_close(losses(distiller)['loss_rsd'], expected)


@pytest.mark.slow
def test_2000_steps_do_not_grow(make_runner):
    class Memory(Hook):
        rss, allocated = [], []

        def after_train_iter(self, runner, *args, **kwargs):
            if (runner.iter + 1) % 100 == 0:
                pages = int(Path('/proc/self/statm').read_text().split()[1])
                self.rss.append(pages * resource.getpagesize() / 2**20)
                self.allocated.append(torch.cuda.memory_allocated() if torch.cuda.is_available() else 0)

    memory = Memory()
    options = dict(train_dataloader__batch_size=64, train_dataloader__dataset__indices=1152, train_cfg__val_interval=10)
    runner = make_runner(epochs=112, default_hooks__checkpoint__interval=28, **options)
    runner.register_hook(memory)
    runner.train()
    assert runner.iter >= 2000
    print('MB after every 100 steps:', [round(value) for value in memory.rss])
    # After a warm-up of 500 steps.
    for values in (memory.rss[4:], memory.allocated[4:]):
        assert max(values) <= 1.02 * values[0]
    assert hooks_on(runner.model) == 0
