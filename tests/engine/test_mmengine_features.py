# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""What people switch on in a config of mmengine or MMPretrain, in real runs of a distillation on digits."""

import copy
import importlib.util
import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model import convert_sync_batchnorm
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import MODELS, OPTIM_WRAPPERS
from mmengine.runner import Runner
from torch import nn

from rsd_mm.utils import read_checkpoint

HEAD, EMBED, PROJECTOR = (
    'student.head.layers.head.weight',
    'student.backbone.patch_embed.projection.weight',
    'terms.loss_rsd.projector.layers.0.weight',
)


@pytest.fixture
def train(root, tmp_path, teacher):
    """Train the quickstart's pair for 2 iterations an epoch with changes to its config; returns the runner."""

    def run(epochs=1, **changes):
        cfg = Config.fromfile(str(root / 'configs/quickstart/resnet_to_vit_digits.py'))
        cfg.model.teacher.checkpoint = teacher
        cfg.train_dataloader.update(batch_size=32)
        cfg.train_dataloader.dataset.indices = 64
        cfg.val_dataloader.dataset.indices = 64
        cfg.train_cfg.update(max_epochs=epochs, val_interval=1)
        cfg.param_scheduler = []
        cfg.randomness = dict(seed=0)
        cfg.work_dir, cfg.log_level, cfg.experiment_name = str(tmp_path / 'work'), 'ERROR', tmp_path.name
        cfg.merge_from_dict(changes)
        runner = Runner.from_cfg(cfg)
        runner.train()
        return runner

    return run


def settings(runner):
    """The learning rate and the weight decay of every parameter, by name; each is in the optimizer once."""
    names = {id(parameter): name for name, parameter in runner.model.named_parameters()}
    groups = runner.optim_wrapper.optimizer.param_groups
    found = {names.pop(id(p)): (group['lr'], group['weight_decay']) for group in groups for p in group['params']}
    assert not names
    return found


def test_gradient_accumulation(train):
    runner = train(optim_wrapper=dict(accumulative_counts=2))
    assert runner.iter == 2
    assert {int(state['step']) for state in runner.optim_wrapper.optimizer.state.values()} == {1}


def test_average_of_weights_is_what_is_validated(train):
    """EMAHook validates and saves the average; with hardly any momentum that is the student as it was at first."""
    runner = train(custom_hooks=[dict(type='EMAHook', momentum=1e-9)])
    saved = read_checkpoint(f'{runner.work_dir}/epoch_1.pth')
    averaged, trained = saved['state_dict'], saved['ema_state_dict']  # mmengine exchanges them in the file
    assert not torch.equal(averaged[HEAD], trained[f'module.{HEAD}'])
    assert {key.split('.')[0] for key in averaged} == {'student', 'terms'}
    assert torch.equal(runner.model.state_dict()[HEAD], trained[f'module.{HEAD}'])


class TestParamwise:
    def test_keys_written_for_the_student(self, train):
        keys = {'backbone.': dict(lr_mult=0.1), '.cls_token': dict(decay_mult=0.0), 'head.': dict(lr_mult=2.0)}
        runner = train(optim_wrapper=dict(paramwise_cfg=dict(custom_keys=keys, norm_decay_mult=0.0)))
        found = settings(runner)
        assert found[EMBED] == pytest.approx((3e-4, 0.05))
        # The longest key that a name contains wins, as without a distiller.
        assert found['student.backbone.cls_token'] == pytest.approx((3e-3, 0.0))
        assert found[HEAD] == pytest.approx((6e-3, 0.05))
        assert found[PROJECTOR] == pytest.approx((3e-3, 0.05))
        assert found['terms.loss_rsd.projector.layers.1.weight'] == pytest.approx((3e-3, 0.0))  # a norm

    def test_the_students_settings_are_those_it_has_alone(self, train, root):
        """For every parameter, with a key that the projector's names contain as well."""
        keys = {'layers.0': dict(lr_mult=0.5), 'ln1': dict(lr_mult=0.2, decay_mult=0.0)}
        paramwise = dict(custom_keys=keys, norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0)
        distilled = settings(train(optim_wrapper=dict(paramwise_cfg=paramwise)))
        alone = Config.fromfile(str(root / 'configs/quickstart/vit_digits.py'))
        wrapper = dict(optimizer=alone.optim_wrapper.optimizer, paramwise_cfg=paramwise)
        model = MODELS.build(alone.model)
        groups = build_optim_wrapper(model, wrapper).optimizer.param_groups
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        for group in groups:
            for parameter in group['params']:
                name = names[id(parameter)]
                assert distilled[f'student.{name}'] == (group['lr'], group['weight_decay']), name
        # Keys are substrings: this one reaches the projector too. 'backbone.layers.0' would not.
        assert distilled[PROJECTOR][0] == pytest.approx(1.5e-3)

    def test_layer_wise_decay(self, train):
        wrapper = dict(
            constructor='LearningRateDecayOptimWrapperConstructor',
            paramwise_cfg=dict(layer_decay_rate=0.5, custom_keys={'.cls_token': dict(decay_mult=0.0)}),
        )
        runner = train(optim_wrapper=wrapper)
        found = settings(runner)
        # Three layers between the embedding of patches and the head.
        assert found[EMBED][0] == pytest.approx(3e-3 * 0.5**4)
        assert found['student.backbone.layers.2.ln1.weight'][0] == pytest.approx(3e-3 * 0.5)
        assert found[HEAD][0] == pytest.approx(3e-3)
        assert found[PROJECTOR][0] == pytest.approx(3e-3)  # trained at the full rate
        assert found['student.backbone.cls_token'][1] == 0.0
        assert runner.optim_wrapper.optimizer.state[runner.model.get_parameter(PROJECTOR)]['exp_avg'].abs().sum() > 0


def test_frozen_stages_of_the_student(train):
    runner = train(model=dict(student=dict(backbone=dict(frozen_stages=1))))
    assert not runner.model.get_parameter(EMBED).requires_grad
    assert runner.optim_wrapper.optimizer.state[runner.model.get_parameter(PROJECTOR)]


def test_early_stopping(train):
    # No accuracy rises by 1000 points, so it stops after the epoch that it has patience for.
    hook = dict(type='EarlyStoppingHook', monitor='accuracy/top1', rule='greater', min_delta=1000.0, patience=1)
    assert train(epochs=6, custom_hooks=[hook]).epoch == 2


@pytest.mark.skipif(importlib.util.find_spec('tensorboard') is None, reason='tensorboard is not installed')
def test_tensorboard(train):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
    runner = train(visualizer=dict(vis_backends=backends), default_hooks=dict(logger=dict(interval=1)))
    runner.visualizer.close()
    folder = next(iter(runner.visualizer._vis_backends.values()))._save_dir
    events = EventAccumulator(folder).Reload()
    assert {'loss', 'loss_task', 'loss_rsd', 'rsd_invariance', 'accuracy/top1'} <= set(events.Tags()['scalars'])
    assert len(events.Scalars('loss_rsd')) == 2
    local = [json.loads(line) for line in Path(folder, 'scalars.json').read_text().splitlines()]
    assert local[0]['loss_rsd'] == pytest.approx(events.Scalars('loss_rsd')[0].value, rel=1e-5)


def test_half_precision(train):
    """What AmpOptimWrapper does around the forward, which itself asserts that there is an accelerator."""

    @OPTIM_WRAPPERS.register_module(force=True)
    class AutocastOnCPU(OptimWrapper):
        def optim_context(self, model):
            return torch.autocast('cpu', dtype=torch.bfloat16)

    full, half = (
        train(optim_wrapper=dict(type=kind), experiment_name=kind).message_hub.log_scalars['train/loss_rsd'].data[0]
        for kind in ('OptimWrapper', 'AutocastOnCPU')
    )
    assert half[0] == pytest.approx(full[0], rel=0.05)
    assert half[0] != full[0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason='AmpOptimWrapper and SyncBatchNorm need an accelerator')
def test_amp_on_a_gpu(train):
    runner = train(optim_wrapper=dict(type='AmpOptimWrapper', loss_scale='dynamic'))
    assert torch.isfinite(torch.tensor(runner.message_hub.log_scalars['train/loss_rsd'].data[0])).all()


def test_sync_bn_converts_student_and_projector_and_no_teacher(make_distiller):
    """SyncBatchNorm runs on accelerators only, so its conversion is what can be seen here."""
    distiller = make_distiller(teacher=None)
    taps = copy.copy(distiller.student_taps)
    converted = convert_sync_batchnorm(distiller, 'torch')

    def kinds(module, kind):
        return sum(type(m) is kind for m in module.modules())

    assert kinds(converted, nn.SyncBatchNorm) == kinds(distiller.student, nn.SyncBatchNorm) + 1 > 2
    assert not kinds(converted, nn.BatchNorm2d) + kinds(converted, nn.BatchNorm1d)
    assert not kinds(converted.teacher, nn.SyncBatchNorm)
    assert converted.student_taps == taps
