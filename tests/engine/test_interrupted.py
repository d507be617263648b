# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Runs that are killed, told to leave, or find the disk full."""

import errno
import logging
import os
import random
import re
import signal
import time

import forked
import pytest
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from test_resume_hook import compare, seen_by

from rsd_mm import InterruptHook
from rsd_mm.engine.hooks import atomic_checkpoint_hook
from rsd_mm.utils import read_checkpoint


class HalfWritten:
    """A file that takes its time between the first half of what is written and the second."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def write(self, data):
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        time.sleep(0.4)
        self.file.write(data[len(data) // 2 :])

    def __getattr__(self, name):
        return getattr(self.file, name)


class Pauses(Hook):
    """Says that it has begun, and makes an epoch of four iterations last 0.4 s or more, not to be over too soon."""

    def __init__(self, begun):
        self.begun = begun

    def before_train(self, *args):
        self.begun.set()

    def after_train_iter(self, *args, **kwargs):
        time.sleep(0.1)


def train(config_file, slow_writes=False, begun=None, signals=0):
    """What a process does."""
    logging.disable(logging.CRITICAL)
    if slow_writes:
        atomic_checkpoint_hook.open = lambda *args: HalfWritten(open(*args))  # noqa: SIM115
    runner = Runner.from_cfg(Config.fromfile(config_file))
    if begun is not None:
        runner.register_hook(Pauses(begun))
    if signals:
        Sends(signal.SIGTERM, 1, signals).attach(runner)
    runner.train()


@pytest.fixture
def start(digits_config, tmp_path):
    """Start a process with a run that resumes."""

    def run(slow_writes=False, begun=None, signals=0, **options):
        cfg = digits_config(**options)
        cfg.resume = True
        file = tmp_path / f'{cfg.experiment_name}.py'
        cfg.dump(file)
        return forked.start(train, str(file), slow_writes, begun, signals)

    return run


def kill_at_random(start, folder, kills, within, seed=0, **options):
    """Kill and resume; every third time while a checkpoint is half written. Returns what was seen."""
    generator = random.Random(seed)
    seen = dict(kills=0, half_written=0, resumed_at=[])
    while seen['kills'] < kills:
        writing = seen['kills'] % 3 == 0
        begun = forked.context.Event()
        process = start(slow_writes=writing, begun=begun, **options)
        assert begun.wait(60)
        deadline = time.time() + (60 if writing else generator.uniform(0, within))
        for path in folder.glob('*.tmp'):
            path.unlink()
        while time.time() < deadline and not (writing and list(folder.glob('*.tmp'))):
            time.sleep(0.005)
        process.kill()
        process.join(60)
        if process.exitcode == 0:
            break  # it was done before
        assert process.exitcode == -signal.SIGKILL
        seen['kills'] += 1
        seen['half_written'] += bool(list(folder.glob('*.tmp')))
        saved = [int(re.findall(r'\d+', path.name)[0]) for path in folder.glob('epoch_*.pth')]
        seen['resumed_at'].append(max(saved, default=0))
    finish(start(**options))
    return seen


def finish(process, exitcode=0):
    process.join(120)
    assert process.exitcode == exitcode


def survive(start, tmp_path, kills, epochs, within):
    finish(start(epochs=epochs, work='whole'))
    seen = kill_at_random(start, tmp_path / 'killed', kills, within, epochs=epochs, work='killed')
    print(seen)
    assert seen['kills'] == kills
    assert seen['half_written'] >= kills // 3
    # No checkpoint that was there is ever gone, and the end is that of the run that was left in peace.
    assert seen['resumed_at'] == sorted(seen['resumed_at'])
    compare(tmp_path / 'whole' / f'epoch_{epochs}.pth', tmp_path / 'killed' / f'epoch_{epochs}.pth')


def test_killed(start, tmp_path):
    survive(start, tmp_path, kills=3, epochs=6, within=1)


@pytest.mark.slow
def test_killed_often(start, tmp_path):
    survive(start, tmp_path, kills=15, epochs=80, within=3)


class PausesFromTheFirst(Pauses):
    """Says that it has begun after the first iteration, for which data workers have to start."""

    def before_train(self, *args):
        pass

    def after_train_iter(self, *args, **kwargs):
        self.begun.set()
        super().after_train_iter()


def train_rank(rank, world, config_file, begun):
    cfg = Config.fromfile(config_file)
    if world > 1:
        cfg.launcher = 'pytorch'
        cfg.model_wrapper_cfg = dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False)
    runner = Runner.from_cfg(cfg)
    runner.register_hook(PausesFromTheFirst(begun))
    runner.train()


@pytest.mark.slow
@pytest.mark.parametrize('world', [1, 2])
@pytest.mark.parametrize('workers', [0, 2])
def test_killed_within_epochs(digits_config, tmp_path, world, workers):
    """At random iterations, 10 times, with random crops, Mixup, dropout and drop path: the end is bit-identical."""
    generator = random.Random(world + workers)
    checkpoint = dict(type='AtomicCheckpointHook', by_epoch=False, interval=3, max_keep_ckpts=2)

    def start(work, number):
        cfg = digits_config(epochs=24 * world, work=work, workers=workers, train_cfg__val_interval=1000)
        cfg.default_hooks.checkpoint = checkpoint
        cfg.model.student.backbone.drop_path_rate = 0.2
        cfg.resume = True
        file = tmp_path / f'{work}_{number}.py'
        cfg.dump(file)
        begun, rendezvous = forked.context.Event(), str(file.with_suffix('.rendezvous'))
        ranks = [
            forked.start(
                *(forked.run_rank, train_rank, rank, world, (str(file), begun), rendezvous),
                output=file.with_suffix(f'.{rank}.log'),
            )
            for rank in range(world)
        ]
        return begun, ranks

    def finish_all(work, number):
        begun, ranks = start(work, number)  # The event has to exist until the processes have it.
        for process in ranks:
            finish(process)

    finish_all('whole', 0)
    resumed_at = []
    for number in range(10):
        begun, ranks = start('killed', number)
        assert begun.wait(60)
        time.sleep(generator.uniform(0, 0.9))
        for process in ranks:
            process.kill()
        for process in ranks:
            process.join(60)
            assert process.exitcode == -signal.SIGKILL
        saved = [int(re.findall(r'\d+', path.name)[0]) for path in (tmp_path / 'killed').glob('iter_*.pth')]
        resumed_at.append(max(saved, default=0))
    print(resumed_at)
    assert len({step % 4 for step in resumed_at if step}) > 1  # within epochs as well
    finish_all('killed', 10)
    compare(tmp_path / 'whole' / 'iter_96.pth', tmp_path / 'killed' / 'iter_96.pth')


class Sends:
    """Sends a signal to the own process when an iteration has begun."""

    def __init__(self, number, iteration, times=1):
        self.number, self.iteration, self.times = number, iteration, times

    def attach(self, runner):
        step = runner.model.train_step

        def train_step(*args, **kwargs):
            if runner.iter == self.iteration:
                for _ in range(self.times):
                    os.kill(os.getpid(), self.number)
            return step(*args, **kwargs)

        runner.model.train_step = train_step


@pytest.mark.parametrize('workers', [0, 2])
def test_sigterm_saves_and_the_rest_is_trained(make_runner, tmp_path, workers):
    whole = make_runner(epochs=2, work='whole', workers=workers)
    expected = seen_by(whole)
    whole.train()
    runner = make_runner(epochs=2, workers=workers)
    seen = seen_by(runner)
    Sends(signal.SIGTERM, 5).attach(runner)
    with pytest.raises(SystemExit) as left:
        runner.train()
    assert left.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    meta = read_checkpoint(tmp_path / 'work' / 'interrupted.pth')['meta']
    assert (meta['epoch'], meta['iter'], meta['batches_done']) == (1, 6, 2)
    resumed = make_runner('auto', epochs=2, workers=workers)
    rest = seen_by(resumed)
    resumed.train()
    assert seen + rest == expected
    compare(tmp_path / 'whole' / 'epoch_2.pth', tmp_path / 'work' / 'epoch_2.pth')


def test_ctrl_c_by_option(make_runner, tmp_path):
    runner = make_runner(epochs=1, default_hooks__interrupt__signals=['SIGTERM', 'SIGINT'])
    Sends(signal.SIGINT, 1).attach(runner)
    with pytest.raises(SystemExit) as left:
        runner.train()
    assert left.value.code == 130
    assert (tmp_path / 'work' / 'interrupted.pth').exists()


def test_an_error_leaves_nothing_behind(make_runner):
    runner = make_runner(epochs=1, optim_wrapper__optimizer__lr=1e30)
    init = runner.train_dataloader.worker_init_fn
    with pytest.raises(FloatingPointError):
        runner.train()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert runner.train_dataloader.worker_init_fn is init


def test_the_second_signal_ends_it_at_once(start, tmp_path):
    finish(start(signals=2, epochs=1), -signal.SIGTERM)
    assert not (tmp_path / 'work' / 'interrupted.pth').exists()


def test_unknown_signal():
    message = "InterruptHook: signals is a list of names such as 'SIGTERM' or 'SIGINT', received 'SIGFOO'."
    for signals in (['SIGTERM', 'SIGFOO'], 'SIGFOO'):
        with pytest.raises(ValueError, match=message):
            InterruptHook(signals)


class TestFullDisk:
    @pytest.mark.parametrize(
        ('name', 'number'), [('No space left on device', errno.ENOSPC), ('Read-only file system', errno.EROFS)]
    )
    def test_older_checkpoints_are_kept(self, make_runner, tmp_path, monkeypatch, name, number):
        runner = make_runner(epochs=3, ema=False, default_hooks__checkpoint__max_keep_ckpts=1)
        writes = []

        def replace(source, target):
            writes.append(target)
            if len(writes) == 2:
                raise OSError(number, name)
            os.rename(source, target)

        monkeypatch.setattr(atomic_checkpoint_hook.os, 'replace', replace)
        message = (
            rf"epoch_2.pth' could not be written: {name} \(it has [\d.]+ MB, [\d.]+ MB are free\). Older checkpoints "
            r'there are unchanged: epoch_1.pth. Free up space, or set another --work-dir, and continue with --resume'
        )
        with pytest.raises(OSError, match=message):
            runner.train()
        assert [path.name for path in (tmp_path / 'work').glob('*.pth*')] == ['epoch_1.pth']
        read_checkpoint(tmp_path / 'work' / 'epoch_1.pth')

    @pytest.mark.skipif(not os.path.exists('/dev/full'), reason='there is no /dev/full')
    def test_a_device_that_is_full(self, tmp_path):
        (tmp_path / 'a.pth.tmp').symlink_to('/dev/full')
        (tmp_path / 'a.pth').write_bytes(b'before')
        with pytest.raises(OSError, match="a.pth' could not be written: No space left on device"):
            atomic_checkpoint_hook.AtomicLocalBackend().put(b'x' * 100000, tmp_path / 'a.pth')
        assert (tmp_path / 'a.pth').read_bytes() == b'before'


def test_old_and_best_checkpoints_are_removed(make_runner, tmp_path):
    options = dict(default_hooks__checkpoint__max_keep_ckpts=1, default_hooks__checkpoint__save_best='auto')
    make_runner(epochs=3, ema=False, **options).train()
    names = sorted(path.name for path in (tmp_path / 'work').glob('*.pth*') if not path.name.startswith('student'))
    assert len(names) == 2
    assert names[0].startswith('best_accuracy_top1_epoch_')
    assert names[1] == 'epoch_3.pth'
