# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""What the tools that look at trained students share."""

import argparse
import os.path as osp
from typing import Any, Dict, List, Tuple

from mmengine.config import DictAction
from mmengine.registry import MODELS
from mmengine.runner import Runner

from common.launch import check_data_folders, check_distillation, read_config
from rsd_mm.models.distillers import Distiller


def add_student_arguments(parser: argparse.ArgumentParser, images: int, out: str) -> None:
    """Add the arguments of a tool that compares students of one distillation on validation images."""
    parser.add_argument('config', help='config of the distillation')
    parser.add_argument(
        'students',
        nargs='+',
        metavar='LABEL=CHECKPOINT',
        help='checkpoints of the student, trained alone or distilled, and what to call them: alone=A.pth RSD=B.pth',
    )
    parser.add_argument('--images', type=int, default=images, help=f'how many validation images (default: {images})')
    parser.add_argument('-o', '--out', default=out, help=f'the picture (default: {out})')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='change the config: KEY=VALUE ...')


def labelled(arguments: List[str], what: str) -> Dict[str, str]:
    """Split ``LABEL=PATH`` arguments.

    Raises:
        SystemExit: If one has another form, or a path does not exist.
    """
    found: Dict[str, str] = {}
    for argument in arguments:
        label, separator, path = argument.partition('=')
        if not separator or not label:
            raise SystemExit(f'{argument!r}: expected LABEL={what}, for example alone=work_dirs/alone/epoch_30.pth.')
        if not osp.exists(path):
            raise SystemExit(f'{argument!r}: {path!r} does not exist (looked in {osp.abspath(path)!r}).')
        found[label] = path
    return found


def load_distillation(args: argparse.Namespace) -> Tuple[Distiller, Any]:
    """The distiller of a config, with its teacher's weights, and the data loader of validation.

    Raises:
        SystemExit: If the config is not there, is no distillation, or its data is missing.
    """
    cfg = read_config(args.config, args.cfg_options)
    check_distillation(cfg, args.config)
    check_data_folders(cfg, 'val_dataloader')
    cfg.model.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
    cfg.val_dataloader.setdefault('collate_fn', dict(type='default_collate'))
    return MODELS.build(cfg.model), Runner.build_dataloader(cfg.val_dataloader)
