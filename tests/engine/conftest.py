# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Real runs of a real Runner: the quickstart's student and teacher on a few digits."""

import functools
import itertools

import pytest
import torch
from fast import fast_runs  # noqa: F401
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner

_numbers = itertools.count()


@pytest.fixture(scope='session')
def teacher(root, tmp_path_factory):
    """A file of the quickstart's teacher, with random weights."""
    path = tmp_path_factory.mktemp('teacher') / 'teacher.pth'
    torch.manual_seed(0)
    init_default_scope('mmpretrain')
    model = MODELS.build(Config.fromfile(root / 'configs/quickstart/resnet_digits.py').model)
    torch.save(model.state_dict(), path)
    return str(path)


def short_config(root, teacher, folder, epochs=2, work='work', workers=0, ema=True, **options):
    """The config of a short distillation with Mixup and an average of weights; keywords of dots change it."""
    cfg = Config.fromfile(root / 'configs/quickstart/resnet_to_vit_digits.py')
    cfg.merge_from_dict(
        {
            'model.teacher.checkpoint': teacher,
            'model.student.train_cfg': dict(augments=[dict(type='Mixup', alpha=0.8)]),
            'train_dataloader.dataset.indices': 128,
            'train_dataloader.batch_size': 32,
            'train_dataloader.num_workers': workers,
            'val_dataloader.dataset.indices': 64,
            'train_cfg.max_epochs': epochs,
            'train_cfg.val_interval': 1,
            'default_hooks.checkpoint.max_keep_ckpts': -1,
            'default_hooks.checkpoint.save_best': None,
            'randomness.seed': 3,
            **{key.replace('__', '.'): value for key, value in options.items()},
        }
    )
    # Dropout, so that the model draws random numbers as well.
    cfg.model.student.backbone.drop_rate = 0.1
    if ema:
        cfg.custom_hooks = [dict(type='EMAHook', momentum=0.1, priority='ABOVE_NORMAL')]
    cfg.work_dir = str(folder / work)
    cfg.experiment_name = f'run_{next(_numbers)}'
    return cfg


@pytest.fixture(scope='session')
def config_in(root, teacher):
    """The config of a short run in a folder; see short_config."""
    return functools.partial(short_config, root, teacher)


@pytest.fixture
def digits_config(config_in, tmp_path):
    return functools.partial(config_in, tmp_path)


@pytest.fixture
def make_runner(digits_config):
    def make(resume=None, **options):
        cfg = digits_config(**options)
        if resume is not None:
            cfg.resume, cfg.load_from = True, None if resume == 'auto' else str(resume)
        return Runner.from_cfg(cfg)

    return make
