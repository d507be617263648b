# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
from mmengine.config import Config

from common.configs import scale_schedule


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
