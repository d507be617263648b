# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Real runs of a real Runner: the quickstart's student and teacher on a few digits."""

import itertools

import pytest
import torch
from mmengine.config import Config, config
from mmengine.runner import Runner

_numbers = itertools.count()


@pytest.fixture(autouse=True)
def _plain_texts(monkeypatch):
    """Laying out the text of a config, which is in every checkpoint, takes longer than these runs (upstream)."""
    monkeypatch.setattr(config, 'FormatCode', lambda text, **options: (text, True), raising=False)


@pytest.fixture
def digits_config(root, tmp_path):
    """The config of a short distillation with Mixup and an average of weights; keywords of dots change it."""

    def make(epochs=2, work='work', workers=0, ema=True, **options):
        cfg = Config.fromfile(root / 'configs/quickstart/resnet_to_vit_digits.py')
        teacher = tmp_path / 'teacher.pth'
        if not teacher.exists():
            from rsd_mm.models.reference import build_model, resolve_model

            torch.manual_seed(0)
            reference = resolve_model(dict(cfg_path=str(root / 'configs/quickstart/resnet_digits.py')), 'teacher')
            torch.save(build_model(reference, 'teacher').state_dict(), teacher)
        cfg.merge_from_dict(
            {
                'model.teacher.checkpoint': str(teacher),
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
        cfg.work_dir = str(tmp_path / work)
        cfg.experiment_name = f'run_{next(_numbers)}'
        return cfg

    return make


@pytest.fixture
def make_runner(digits_config):
    def make(resume=None, **options):
        cfg = digits_config(**options)
        if resume is not None:
            cfg.resume, cfg.load_from = True, None if resume == 'auto' else str(resume)
        return Runner.from_cfg(cfg)

    return make
