# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from rsd_mm import CorrelationHook


@pytest.fixture
def train(root, tmp_path, teacher):
    def run(name, hook=None, epochs=1, images=128):
        cfg = Config.fromfile(str(root / 'configs' / 'quickstart' / 'resnet_to_vit_digits.py'))
        cfg.model.teacher.checkpoint = teacher
        cfg.train_dataloader.dataset.indices = images
        cfg.train_cfg.max_epochs = epochs
        cfg.work_dir, cfg.randomness = str(tmp_path / name), dict(seed=0)
        cfg.experiment_name = f'{tmp_path.name}_{name}'
        cfg.custom_hooks = [hook] if hook else []
        cfg.log_level = 'ERROR'
        runner = Runner.from_cfg(cfg)
        runner.train()
        return runner

    return run


def test_pictures_and_numbers_of_a_run(train):
    runner = train('a', dict(type='CorrelationHook', interval=2, images=300), epochs=3, images=1200)
    data = next(Path(runner.work_dir).glob('*/vis_data'))
    pictures = sorted(data.glob('vis_image/correlation_*.png'))
    assert [picture.name for picture in pictures] == [f'correlation_{epoch}.png' for epoch in (0, 2, 3)]
    first, *_, last = (cv2.imread(str(picture)) for picture in pictures)
    assert first.shape == (630, 720, 3)
    assert (first != last).any()
    lines = [json.loads(line) for line in (data / 'scalars.json').read_text().splitlines()]
    told = [line for line in lines if 'correlation/mean_diagonal' in line]
    assert [line['step'] for line in told] == [0, 2, 3]
    diagonal = [line['correlation/mean_diagonal'] for line in told]
    assert abs(diagonal[0]) < 0.1  # nothing was learned yet
    assert diagonal[-1] > 0.2
    assert all(0 <= line['correlation/mean_square_off_diagonal'] < 1 for line in told)
    assert all(1 <= line['correlation/effective_rank'] <= 64 for line in told)


def test_training_goes_as_without_it(train):
    runs = train('a', dict(type='CorrelationHook', interval=1)), train('b')
    losses = [run.message_hub.get_scalar('train/loss').data[0] for run in runs]
    np.testing.assert_array_equal(*losses)


def test_a_term_that_does_not_exist(train):
    with pytest.raises(
        ValueError, match="CorrelationHook: the model has no term 'loss_kd'; set term to one of loss_rsd."
    ):
        train('a', dict(type='CorrelationHook', term='loss_kd'))


@pytest.mark.parametrize('option', [dict(interval=0), dict(images=1.5)])
def test_bad_options(option):
    with pytest.raises(ValueError, match='is a positive integer'):
        CorrelationHook(**option)
