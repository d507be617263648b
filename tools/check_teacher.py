# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Is the teacher what it claims to be? ``python tools/check_teacher.py CONFIG``.

Evaluates the teacher of a distillation on the validation set, through the
distillation's own data pipeline, preprocessing and input bridge, so that weights,
normalization or image size that do not belong together show before a long run.
"""

import argparse
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from tqdm import tqdm

from common.launch import (
    add_run_arguments,
    check_data_folders,
    check_distillation,
    load_config,
    run_distributed,
    set_dataloader_defaults,
)
from rsd_mm.utils.config import unwrap
from rsd_mm.utils.model_index import published_accuracy


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Evaluate a distillation's teacher on the validation set")
    add_run_arguments(parser)
    return parser.parse_args()


def build_config(args: argparse.Namespace) -> Config:
    cfg = load_config(args)
    check_distillation(cfg, args.config)
    cfg.load_from, cfg.resume = None, False
    cfg.model = dict(type='TeacherClassifier', distiller=cfg.model)
    # The validation set is what is tested here.
    cfg.test_dataloader, cfg.test_evaluator, cfg.test_cfg = cfg.val_dataloader, cfg.val_evaluator, dict()
    if args.amp:
        cfg.test_cfg.fp16 = True
    cfg.train_dataloader = cfg.train_cfg = cfg.optim_wrapper = cfg.param_scheduler = None
    cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
    cfg.custom_hooks = []
    set_dataloader_defaults(cfg, args, 'test_dataloader')
    check_data_folders(cfg, 'test_dataloader')
    return cfg


class Progress(Hook):
    """A bar over the batches, where it can be redrawn."""

    def before_test(self, runner: Runner) -> None:
        disable = None if is_main_process() else True
        self.bar = tqdm(total=len(runner.test_dataloader), desc='teacher', unit='batch', disable=disable)

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.bar.update()

    def after_test(self, runner: Runner) -> None:
        self.bar.close()


def main() -> None:
    cfg = build_config(parse_args())

    def check() -> None:
        runner = Runner.from_cfg(cfg)
        runner.register_hook(Progress())
        metrics = runner.test()
        teacher = unwrap(runner.model).teacher
        shown = ', '.join(f'{name} {value:.2f}' for name, value in metrics.items())
        published = published_accuracy(teacher.checkpoint) if teacher.checkpoint else None
        stated = (
            f' (stated for {published.name} on {published.dataset}: top1 {published.top1:.2f})' if published else ''
        )
        runner.logger.info(f'Teacher {teacher.origin}, weights {teacher.checkpoint}: {shown}{stated}')

    run_distributed(cfg, check)


if __name__ == '__main__':
    main()
