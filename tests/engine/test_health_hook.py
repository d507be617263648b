# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
import copy
import re

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper

from rsd_mm.utils import read_checkpoint


def poison(runner, *iterations, what=float('nan'), where='inputs'):
    """Let some iterations see images of NaN, or get a loss of NaN."""
    model = runner.model
    if where == 'inputs':
        preprocess = model.data_preprocessor.forward

        def forward(data, training=False):
            data = preprocess(data, training)
            if training and runner.iter in iterations:
                data['inputs'] = data['inputs'] * what
            return data

        model.data_preprocessor.forward = forward
    else:
        loss = model.student.head.loss

        def poisoned(*args, **kwargs):
            losses = loss(*args, **kwargs)
            return {key: value * what for key, value in losses.items()} if runner.iter in iterations else losses

        model.student.head.loss = poisoned


def log_of(runner, tmp_path):
    return (tmp_path / 'work' / runner.timestamp / f'{runner.timestamp}.log').read_text()


def test_stops_with_what_is_known(make_runner, tmp_path):
    runner = make_runner(epochs=2, ema=False)
    poison(runner, 5)
    with pytest.raises(FloatingPointError) as error:
        runner.train()
    message = str(error.value)
    assert re.match(
        r'The loss is nan at iteration 6 \(epoch 2, learning rate 0.00\d+\). Not finite: loss_task, ', message
    )
    for name in ('loss_rsd', "the student's embedding (input of 'head.layers.head')", "the teacher's embedding"):
        assert name in message
    assert f"The last good checkpoint is '{tmp_path}/work/epoch_1.pth'. Lower the learning rate" in message
    assert message.endswith('default_hooks.health.max_skips=N skips up to N bad batches.')
    assert [path.name for path in (tmp_path / 'work').glob('*.pth')] == ['epoch_1.pth']


@pytest.mark.parametrize('what', [float('nan'), float('inf')])
def test_names_the_one_term(make_runner, what):
    runner = make_runner(epochs=1, ema=False)
    poison(runner, 0, what=what, where='loss')
    message = (
        rf'The loss is {what} at iteration 1 \(epoch 1, .*\). Not finite: loss_task. No checkpoint has been saved yet'
    )
    with pytest.raises(FloatingPointError, match=message):
        runner.train()


def test_an_export_is_no_checkpoint(make_runner, tmp_path):
    (tmp_path / 'work').mkdir()
    (tmp_path / 'work' / 'student_best.pth').write_bytes(b'of an earlier run')
    runner = make_runner(epochs=1, ema=False)
    poison(runner, 0)
    with pytest.raises(FloatingPointError, match='No checkpoint has been saved yet'):
        runner.train()


def test_bad_batches_are_left_out(make_runner, tmp_path):
    runner = make_runner(epochs=1, ema=False, default_hooks__health__max_skips=2)
    poison(runner, 1, 2)
    states = {}
    step = runner.model.train_step

    def train_step(*args, **kwargs):
        before = copy.deepcopy(runner.model.state_dict())
        out = step(*args, **kwargs)
        after = runner.model.state_dict()
        states[runner.iter] = [key for key in before if not torch.equal(before[key], after[key])]
        return out

    runner.model.train_step = train_step
    runner.train()
    assert [bool(changed) for _, changed in sorted(states.items())] == [True, False, False, True]
    log = log_of(runner, tmp_path)
    assert 'Skipping the batch (1 of at most 2).' in log
    assert 'Skipping the batch (2 of at most 2).' in log
    assert 'loss: nan' not in log
    meta = read_checkpoint(tmp_path / 'work' / 'epoch_1.pth')
    assert meta['meta']['iter'] == 4
    assert meta['optimizer']['state'][0]['step'] == 2


def test_a_skipped_batch_does_not_count_for_accumulation(make_runner):
    runner = make_runner(epochs=2, ema=False, default_hooks__health__max_skips=1, optim_wrapper__accumulative_counts=2)
    poison(runner, 1)
    steps = []

    class Count(Hook):
        def before_train(self, runner):
            runner.optim_wrapper.optimizer.register_step_post_hook(lambda *args: steps.append(runner.iter))

    runner.register_hook(Count())
    runner.train()
    assert steps == [2, 4, 6]  # of the batches 0 and 2, 3 and 4, 5 and 6


def test_no_more_than_allowed_are_left_out(make_runner):
    runner = make_runner(epochs=1, ema=False, default_hooks__health__max_skips=1)
    poison(runner, 1, 2)
    with pytest.raises(FloatingPointError, match='The loss is nan at iteration 3'):
        runner.train()


def test_overflow_that_a_loss_scaler_handles_is_no_error(make_runner):
    """A stand-in for AmpOptimWrapper, which needs an accelerator: gradients overflow, the loss does not."""
    runner = make_runner(epochs=1, ema=False)
    skipped = []

    class Scaled(OptimWrapper):
        def update_params(self, loss, **kwargs):
            self.backward(loss * (float('inf') if runner.iter == 1 else 1))
            gradients = [p.grad for group in self.param_groups for p in group['params']]
            if all(torch.isfinite(gradient).all() for gradient in gradients):
                self.step()
            else:
                skipped.append(runner.iter)
            self.zero_grad()

    runner.optim_wrapper = Scaled(torch.optim.SGD(runner.model.parameters(), lr=0.01))
    runner.param_schedulers = None
    runner.train()
    assert skipped == [1]
    assert all(torch.isfinite(parameter).all() for parameter in runner.model.parameters())


def test_weights_that_are_not_finite_are_not_saved(make_runner, tmp_path):
    runner = make_runner(epochs=2, ema=False)
    step = runner.model.train_step

    def train_step(*args, **kwargs):
        out = step(*args, **kwargs)
        if runner.iter == 7:  # the last of the second epoch
            runner.model.student.head.layers.head.bias.data[0] = float('inf')
        return out

    runner.model.train_step = train_step
    message = (
        r'1 of the tensors to save after iteration 8 contain NaN or inf, the first is student.head.layers.head.bias. '
        r"They are not saved. The last good checkpoint is '.*epoch_1.pth'."
    )
    with pytest.raises(FloatingPointError, match=message):
        runner.train()
    assert [path.name for path in (tmp_path / 'work').glob('*.pth')] == ['epoch_1.pth']


def test_features_that_say_nothing(make_runner, tmp_path):
    runner = make_runner(epochs=1, ema=False)
    runner.model.teacher.model.neck.register_forward_hook(
        lambda module, args, out: tuple(torch.randn_like(x) * (torch.arange(x.shape[1]) > 2) for x in out)
    )

    class Collapse(Hook):
        def before_train(self, runner):
            torch.nn.init.zeros_(runner.model.student.backbone.ln1.weight)

    runner.register_hook(Collapse())
    runner.train()
    log = log_of(runner, tmp_path)
    assert re.search(
        r"64 of the 64 features of the student's embedding \(input of 'head.layers.head'\) are constant over the batch "
        r'at iteration 1 \(standard deviation below 0.0001\). The student has collapsed.',
        log,
    )
    assert re.search(
        r"3 of the 128 features of the teacher's embedding \(input of 'head.fc'\) are constant over the batch at "
        r'iteration 1 \(standard deviation below 0.0001\). They carry no information.',
        log,
    )


def test_a_healthy_run_says_nothing_and_is_left_as_it_was(make_runner, tmp_path):
    runner = make_runner(epochs=1, ema=False, default_hooks__health__interval=1)
    # A teacher that was not trained has dead features.
    runner.model.teacher.model.neck.register_forward_hook(lambda module, args, out: tuple(map(torch.randn_like, out)))
    runner.train()
    assert 'are constant' not in log_of(runner, tmp_path)
    assert runner.model.observe is None
    copy.deepcopy(runner.model)
