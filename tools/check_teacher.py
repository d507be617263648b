# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Evaluate the teacher of a distillation: ``python tools/check_teacher.py CONFIG``.

The teacher is evaluated on the validation set as the distillation uses it: with the
student's data pipeline and preprocessing, and through the input bridge. Weights,
normalization or an image size that do not match show before a long run.
"""

import argparse

from mmengine.config import Config
from mmengine.runner import Runner

from common.configs import check_distillation
from common.launch import add_run_arguments, keep_test_only, load_config, run_distributed
from common.progress import ProgressHook
from rsd_mm.utils.config import unwrap
from rsd_mm.utils.model_index import published_accuracy


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Evaluate a distillation's teacher on the validation set")
    add_run_arguments(parser)
    return parser.parse_args()


def build_config(args: argparse.Namespace) -> Config:
    cfg = load_config(args)
    check_distillation(cfg, args.config)
    cfg.model = dict(type='TeacherClassifier', distiller=cfg.model)
    cfg.test_dataloader, cfg.test_evaluator, cfg.test_cfg = cfg.val_dataloader, cfg.val_evaluator, dict()
    keep_test_only(cfg, args)
    return cfg


def main() -> None:
    cfg = build_config(parse_args())

    def check() -> None:
        runner = Runner.from_cfg(cfg)
        runner.register_hook(ProgressHook('teacher'))
        metrics = ', '.join(f'{name} {value:.2f}' for name, value in runner.test().items())
        teacher = unwrap(runner.model).teacher
        published = published_accuracy(teacher.checkpoint) if teacher.checkpoint else None
        if published:
            metrics += f' (published for {published.name} on {published.dataset}: top1 {published.top1:.2f})'
        runner.logger.info(f'Teacher {teacher.origin}, weights {teacher.checkpoint}: {metrics}')

    run_distributed(cfg, check)


if __name__ == '__main__':
    main()
