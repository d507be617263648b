# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
import cv2
import pytest
from mmengine.config import Config

from common.report import draw_accuracies, markdown_table, mean_and_spread, scale_schedule, spread


def test_spread_is_the_standard_deviation_of_a_sample():
    assert spread([1.0, 2.0, 3.0]) == pytest.approx(1.0)
    assert spread([5.0]) == 0.0
    assert mean_and_spread([1.0, 2.0, 3.0]) == '2.0 +- 1.0'
    assert mean_and_spread([5.04]) == '5.0'


def test_markdown_table():
    assert markdown_table(['a', 'b'], [['long', '1']]) == '| a    | b |\n| ---- | - |\n| long | 1 |'


def test_schedule_is_stretched_in_proportion():
    cfg = Config(
        dict(
            param_scheduler=[dict(type='LinearLR', end=3), dict(type='CosineAnnealingLR', begin=3, end=30)],
            train_cfg=dict(max_epochs=30, val_interval=3),
        )
    )
    scale_schedule(cfg, 100)
    assert [(s.get('begin'), s.end) for s in cfg.param_scheduler] == [(None, 10), (10, 100)]
    assert (cfg.train_cfg.max_epochs, cfg.train_cfg.val_interval) == (100, 1)  # the last epoch is validated
    scale_schedule(cfg, 2)
    assert [s.end for s in cfg.param_scheduler] == [2]


@pytest.mark.parametrize('models', [2, 6])
def test_picture(tmp_path, models):
    curves = {f'model {i}': [([1, 2], [50.0 + i, 60.0 + i]), ([1, 2], [40.0, 61.0])] for i in range(models)}
    draw_accuracies(curves, str(tmp_path / 'race.png'), 'A race', teacher=70.0)
    picture = cv2.imread(str(tmp_path / 'race.png'))
    assert picture.shape[0] > 300
    assert picture.std() > 10
