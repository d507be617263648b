# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Train a model, distilled or not: ``python tools/train.py CONFIG``."""

import argparse

from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from common.configs import check_data_folders
from common.launch import add_run_arguments, load_config, run_distributed, set_dataloader_defaults


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Train a model')
    add_run_arguments(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='resume from this checkpoint or, without a value, from the latest one in the work dir',
    )
    parser.add_argument('--no-validate', action='store_true', help='do not validate during training')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate by the total batch size relative to auto_scale_lr.base_batch_size',
    )
    parser.add_argument('--no-persistent-workers', action='store_true', help='restart data workers every epoch')
    return parser.parse_args()


def build_config(args: argparse.Namespace) -> Config:
    cfg = load_config(args)
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        cfg.default_hooks.checkpoint.save_best = None  # There is no metric.
    if args.amp:
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    if args.auto_scale_lr:
        if 'auto_scale_lr' not in cfg:
            raise SystemExit(
                f'--auto-scale-lr: {args.config!r} does not state the batch size of its learning rate. '
                'Add auto_scale_lr = dict(base_batch_size=...) to it.'
            )
        cfg.auto_scale_lr.enable = True
    persistent = not args.no_persistent_workers
    loaders = ('train_dataloader', 'val_dataloader', 'test_dataloader')
    set_dataloader_defaults(cfg, args, *loaders, persistent_workers=persistent)
    check_data_folders(cfg, 'train_dataloader', 'val_dataloader')
    return cfg


def main() -> None:
    cfg = build_config(parse_args())

    def train() -> None:
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
        runner.train()

    run_distributed(cfg, train)


if __name__ == '__main__':
    main()
