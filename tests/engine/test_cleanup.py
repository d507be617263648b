# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""What hooks change for training is as before when it ends."""

import signal
from types import SimpleNamespace

import numpy as np
import pytest
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, Runner

from rsd_mm.engine.cleanup import cleanup_stack, patch


def state_of(runner):
    """Everything that a hook may patch."""
    loaders = runner.train_dataloader, runner.val_dataloader
    return dict(
        observe=runner.model.observe,
        update_params=vars(runner.optim_wrapper).get('update_params'),
        batches=loaders[0].batch_sampler.sampler,
        sampler_seed=loaders[0].sampler.seed,
        worker_init_fn=loaders[0].worker_init_fn,
        worker_init_fn_of_validation=loaders[1].worker_init_fn,
        signal=signal.getsignal(signal.SIGTERM),
    )


class Watch(Hook):
    priority = 'HIGHEST'

    def __init__(self, error):
        self.error = error

    def before_run(self, runner):
        self.before = state_of(runner)
        self.worker_seed = runner.train_dataloader.worker_init_fn.keywords['seed']

    def after_train_iter(self, runner, *args, **kwargs):
        self.during = state_of(runner)
        if self.error:
            raise RuntimeError('something else goes wrong')


@pytest.fixture(scope='module')
def within_an_epoch(config_in, tmp_path_factory):
    """A checkpoint after two of four iterations, of a run with a seed of its own."""
    folder = tmp_path_factory.mktemp('within')
    np.random.seed(1)  # which mmengine draws the run's seed from; every test begins with another
    runner = Runner.from_cfg(config_in(folder, epochs=1, ema=False, randomness__seed=None))
    runner.register_hook(dict(type='AtomicCheckpointHook', interval=2, by_epoch=False))
    runner.train()
    return folder / 'work' / 'iter_2.pth'


@pytest.mark.parametrize('error', [False, True])
def test_a_run_is_as_before(make_runner, within_an_epoch, error):
    runner = make_runner(
        within_an_epoch, epochs=1, ema=False, randomness__seed=None, default_hooks__health__max_skips=1
    )
    watch = Watch(error)
    runner.register_hook(watch)
    if error:
        with pytest.raises(RuntimeError, match='something else goes wrong'):
            runner.train()
    else:
        runner.train()
    assert [name for name, value in watch.before.items() if watch.during[name] == value] == []
    assert state_of(runner) == watch.before
    assert runner.train_dataloader.worker_init_fn.keywords['seed'] == watch.worker_seed
    assert not {'run', '_cleanup_stack'} & set(vars(runner.train_loop))


def test_a_run_that_only_tests_needs_no_training_data(make_runner):
    missing = dict(type='mmpretrain.CustomDataset', data_root='/nowhere', pipeline=[])
    runner = make_runner(epochs=1, ema=False, train_dataloader__dataset=dict(_delete_=True, **missing))
    assert runner.test()['accuracy/top1'] >= 0


class Loop(BaseLoop):
    def __init__(self, error=None):
        self.own, self.error = 1, error

    def run(self):
        self.seen = self.own, self.shared
        if self.error:
            raise self.error

    shared = 2


@pytest.mark.parametrize('error', [None, KeyboardInterrupt(), SystemExit(1)])
def test_patches_are_undone_in_reverse(error):
    loop = Loop(error)
    runner = SimpleNamespace(_train_loop=loop)
    assert cleanup_stack(runner) is cleanup_stack(runner)
    for value in (10, 100):
        patch(runner, loop, 'own', value)
        patch(runner, loop, 'shared', value)
    if error:
        with pytest.raises(type(error)):
            loop.run()
    else:
        loop.run()
    assert vars(loop) == dict(own=1, error=error, seen=(100, 100))
