# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
import random
import re

import numpy as np
import pytest
import torch
from mmengine.runner import Runner

from rsd_mm.engine.resuming import SeededItems, SkipFirst
from rsd_mm.utils import CheckpointError, read_checkpoint


def equal(a, b):
    """Bit for bit, through dicts and lists."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def compare(one, other):
    """Every part of two checkpoints that training goes on from."""
    a, b = read_checkpoint(one), read_checkpoint(other)
    for part in ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers'):
        assert equal(a[part], b[part]), part
    for part in ('epoch', 'iter', 'sampler_seed', 'distillation', 'batches_done'):
        assert a['meta'][part] == b['meta'][part], part


def random_states():
    return torch.get_rng_state(), torch.from_numpy(np.random.get_state()[1].astype(np.int64)), random.getstate()


@pytest.mark.parametrize('workers', [0, 2])
def test_resumed_at_an_epoch_is_bit_identical(make_runner, tmp_path, workers):
    make_runner(epochs=3, work='whole', workers=workers).train()
    states = random_states()
    checkpoint = tmp_path / 'whole' / 'epoch_1.pth'
    random.seed(99), np.random.seed(99), torch.manual_seed(99)
    resumed = make_runner(checkpoint, epochs=3, work='resumed', workers=workers)
    resumed.train()
    compare(tmp_path / 'whole' / 'epoch_3.pth', tmp_path / 'resumed' / 'epoch_3.pth')
    assert equal(random_states(), states)
    state = read_checkpoint(checkpoint)
    assert {key.split('.')[0] for key in state['state_dict']} == {'student', 'terms'}
    # What the test stands on: epochs differ, and the run's seed counts.
    assert not equal(state['state_dict'], read_checkpoint(tmp_path / 'whole' / 'epoch_2.pth')['state_dict'])


def test_a_run_without_a_seed_resumes_with_its_own(make_runner, tmp_path):
    make_runner(epochs=2, work='whole', randomness__seed=None).train()
    make_runner(tmp_path / 'whole' / 'epoch_1.pth', epochs=2, work='resumed', randomness__seed=None).train()
    compare(tmp_path / 'whole' / 'epoch_2.pth', tmp_path / 'resumed' / 'epoch_2.pth')


def test_validation_does_not_change_what_training_draws(make_runner, tmp_path):
    make_runner(epochs=2, work='often').train()
    make_runner(epochs=2, work='once', train_cfg__val_interval=2).train()
    compare(tmp_path / 'often' / 'epoch_2.pth', tmp_path / 'once' / 'epoch_2.pth')


def seen_by(runner):
    """Lets a runner note which images, by their values, every iteration gets."""
    seen = []
    step = runner.model.train_step

    def train_step(data, optim_wrapper):
        seen.append([image.float().mean().item() for image in data['inputs']])
        return step(data, optim_wrapper)

    runner.model.train_step = train_step
    return seen


PERSISTENT = dict(train_dataloader__persistent_workers=True, val_dataloader__num_workers=1)


@pytest.mark.parametrize(('workers', 'options'), [(0, {}), (2, {}), (2, PERSISTENT)], ids=['0', '2', 'persistent'])
def test_within_an_epoch_is_bit_identical(make_runner, tmp_path, workers, options):
    """With random crops, Mixup and dropout."""
    whole = make_runner(epochs=3, work='whole', workers=workers, **options)
    expected = seen_by(whole)
    # mmengine's own checkpoints by iteration, in training by epochs.
    whole.register_hook(dict(type='AtomicCheckpointHook', interval=1, by_epoch=False))
    whole.train()
    assert len(expected) == 12
    resumed = make_runner(tmp_path / 'whole' / 'iter_6.pth', epochs=3, work='resumed', workers=workers, **options)
    seen = seen_by(resumed)
    resumed.train()
    assert seen == expected[6:]
    compare(tmp_path / 'whole' / 'epoch_3.pth', tmp_path / 'resumed' / 'epoch_3.pth')
    assert read_checkpoint(tmp_path / 'resumed' / 'epoch_3.pth')['meta']['batches_done'] == 0


def test_crops_do_not_depend_on_the_data_workers_and_differ_by_epoch(make_runner):
    seen = []
    for workers in (0, 2):
        runner = make_runner(epochs=2, work=f'workers_{workers}', workers=workers)
        seen.append(seen_by(runner))
        runner.train()
    assert seen[0] == seen[1]
    first, second = (sorted(sum(seen[0][i : i + 4], [])) for i in (0, 4))
    assert first != second


class Draws:
    """A dataset of what its samples draw."""

    def __getitem__(self, index):
        return index, random.random(), np.random.random(), float(torch.rand(1))


def test_a_dataset_that_fetches_batches_itself_is_seeded_as_well(make_runner):
    seen = []
    for workers in (0, 2):
        runner = make_runner(epochs=1, work=f'workers_{workers}', workers=workers)
        loader = runner.train_dataloader
        subset = torch.utils.data.Subset(loader.dataset, range(len(loader.dataset)))
        assert hasattr(subset, '__getitems__')
        object.__setattr__(loader, 'dataset', subset)
        seen.append(seen_by(runner))
        runner.train()
    assert seen[0] == seen[1]


def test_samples_draw_by_epoch_index_and_repetition(monkeypatch):
    epoch = torch.zeros(1, dtype=torch.int64)
    items = SeededItems(Draws(), 3, epoch)
    first = items([4, 7, 4])
    assert items([7]) == first[1:2]  # not by the samples before it
    assert first[0] == items([4])[0] != first[2]  # repeated augmentation
    epoch.fill_(1)
    other_epoch = items([4])[0]
    monkeypatch.setattr('mmengine.dist.get_rank', lambda: 1)
    other_rank = SeededItems(Draws(), 3, torch.zeros(1, dtype=torch.int64))([4])[0]
    other_seed = SeededItems(Draws(), 4, torch.zeros(1, dtype=torch.int64))([4])[0]
    assert len({first[0], first[2], other_epoch, other_rank, other_seed}) == 5


@pytest.mark.parametrize('workers', [0, 2])
def test_without_epochs_it_is_bit_identical_as_well(digits_config, tmp_path, workers):
    for work, checkpoint in (('whole', None), ('resumed', tmp_path / 'whole' / 'iter_3.pth')):
        cfg = digits_config(work=work, workers=workers)
        cfg.train_cfg = dict(by_epoch=False, max_iters=6, val_interval=6)
        cfg.train_dataloader.sampler = dict(type='InfiniteSampler', shuffle=True)
        cfg.default_hooks.checkpoint.update(by_epoch=False, interval=1)
        cfg.param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=5)]
        cfg.resume, cfg.load_from = checkpoint is not None, checkpoint and str(checkpoint)
        Runner.from_cfg(cfg).train()
    compare(tmp_path / 'whole' / 'iter_6.pth', tmp_path / 'resumed' / 'iter_6.pth')


def test_within_an_epoch_of_another_length(make_runner, tmp_path):
    """Half of the epoch is done, whatever the batch size."""
    whole = make_runner(epochs=1, work='whole')
    whole.register_hook(dict(type='AtomicCheckpointHook', interval=2, by_epoch=False))
    whole.train()
    resumed = make_runner(tmp_path / 'whole' / 'iter_2.pth', epochs=1, work='r', train_dataloader__batch_size=16)
    seen = seen_by(resumed)
    resumed.train()
    assert len(seen) == 4


def test_a_sampler_is_shortened_once():
    sampler = SkipFirst(range(5), 3)
    assert [list(sampler), list(sampler), len(sampler)] == [[3, 4], [0, 1, 2, 3, 4], 5]


def test_truncated_newest_is_passed_over(make_runner, tmp_path):
    make_runner(epochs=2, ema=False).train()
    work = tmp_path / 'work'
    path = work / 'epoch_2.pth'
    path.write_bytes(path.read_bytes()[:-1000])
    runner = make_runner('auto', epochs=2, ema=False)
    runner.train()
    log = (work / runner.timestamp / f'{runner.timestamp}.log').read_text()
    assert re.search(r"epoch_2.pth' is truncated or not a PyTorch checkpoint \(.*Skipping it", log)
    assert 'resumed epoch: 1, iter: 4' in log
    path.write_bytes(b'<html>')
    with pytest.raises(CheckpointError, match='is a web page, not a checkpoint'):
        make_runner(path, epochs=2, ema=False).train()


def test_without_a_checkpoint_it_begins(make_runner):
    runner = make_runner('auto', epochs=1, ema=False)
    runner.train()
    assert runner.iter == 4


@pytest.fixture(scope='module')
def checkpoint(config_in, tmp_path_factory):
    """Of a run of one epoch without averages; not to be changed."""
    folder = tmp_path_factory.mktemp('first')
    Runner.from_cfg(config_in(folder, epochs=1, ema=False)).train()
    return folder / 'work' / 'epoch_1.pth'


class TestAnotherModel:
    @pytest.mark.parametrize(
        ('options', 'shown'),
        [
            (dict(model__loss=dict(kappa=0.02)), 'model.loss.kappa: was absent, now 0.02'),
            (dict(model__projector=dict(expansion=4)), r'model.projector.expansion: was absent, now 4\n'),
            (dict(model__student_tap='logits'), "model.student_tap: was absent, now 'logits'"),
        ],
    )
    def test_options_and_sizes(self, make_runner, checkpoint, options, shown):
        with pytest.raises(ValueError, match=shown) as error:
            make_runner(checkpoint, epochs=2, ema=False, **options).train()
        assert 'add --cfg-options default_hooks.resume.allow_changes=True' in str(error.value)
        if 'model__projector' in options:
            shown = 'terms.loss_rsd.projector.layers.0.weight: was (128, 64), now (256, 64)'
            assert shown in str(error.value)

    def test_teacher(self, make_runner, checkpoint, teacher, tmp_path):
        state = torch.load(teacher)
        moved = tmp_path / 'moved.pth'
        torch.save(state, moved)
        make_runner(checkpoint, epochs=2, ema=False, model__teacher__checkpoint=str(moved)).train()  # the same one
        state['head.fc.bias'] = state['head.fc.bias'] + 1e-3
        torch.save(state, moved)
        runner = make_runner(checkpoint, epochs=2, ema=False, model__teacher__checkpoint=str(moved))
        with pytest.raises(ValueError, match='weights of the teacher: was [0-9a-f]{16}, now [0-9a-f]{16}'):
            runner.train()

    def test_unless_told_otherwise(self, make_runner, checkpoint):
        options = dict(model__loss=dict(kappa=0.02), default_hooks__resume__allow_changes=True)
        runner = make_runner(checkpoint, epochs=2, ema=False, **options)
        runner.train()
        assert runner.epoch == 2

    def test_checkpoints_of_others_say_nothing(self, make_runner, checkpoint, tmp_path):
        """One that was written without the hook."""
        content = torch.load(checkpoint)
        for key in ('distillation', 'sampler_seed', 'batches_done', 'epoch_batches'):
            del content['meta'][key]
        torch.save(content, tmp_path / 'other.pth')
        make_runner(tmp_path / 'other.pth', epochs=2, ema=False, model__loss=dict(kappa=0.02)).train()


class TestLoadFrom:
    def test_no_tensor_fits(self, make_runner, digits_config, teacher):
        cfg = digits_config(epochs=1)
        cfg.load_from = teacher  # keys of a plain model
        with pytest.raises(
            ValueError, match="has no weights of this model: the first of its .* the first of the model 'st"
        ):
            Runner.from_cfg(cfg).train()

    def test_some_do(self, digits_config, checkpoint, tmp_path):
        state = torch.load(checkpoint)['state_dict']
        kept = {f'module.{key}': value for key, value in state.items() if 'terms' not in key}
        torch.save(dict(state_dict=kept), tmp_path / 'some.pth')
        cfg = digits_config(epochs=1)
        cfg.load_from = str(tmp_path / 'some.pth')
        runner = Runner.from_cfg(cfg)
        runner.train()
        log = (tmp_path / 'work' / runner.timestamp / f'{runner.timestamp}.log').read_text()
        assert f'has {len(kept)} of the {len(state)} tensors of this model. Not loaded: terms.loss_rsd.projector' in log
