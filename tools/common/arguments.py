# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Command line arguments that several tools have. Imports neither torch nor OpenMMLab's packages."""

import argparse
import os
import os.path as osp
from typing import Dict, List

CONFIGS = osp.normpath(osp.join(osp.dirname(osp.abspath(__file__)), '..', '..', 'configs'))
#: A config each, for the model of a pair.
METHODS = osp.join(CONFIGS, '_base_', 'methods')
#: The student without a teacher, among methods.
ALONE = 'alone'


def known_methods() -> List[str]:
    """Return the names of the methods in ``configs/_base_/methods``."""
    return sorted(osp.splitext(name)[0] for name in os.listdir(METHODS) if name.endswith('.py'))


def name_of(path: str) -> str:
    """Return the name of a file without its folder and extension."""
    return osp.splitext(osp.basename(path))[0]


def positive_int(text: str) -> int:
    """Parse an argument that is at least 1, for ``type=``."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'expected a positive integer, received {value}')
    return value


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    from mmengine.config import DictAction

    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override settings of the config, e.g. model.loss.kappa=0.02 train_dataloader.batch_size=32; lists as '
        "KEY='[a,b]'",
    )


def add_student_arguments(parser: argparse.ArgumentParser, images: int, out: str) -> None:
    """Add the arguments of a tool that compares students of one distillation on validation images."""
    parser.add_argument('config', help='config of the distillation')
    parser.add_argument(
        'students',
        nargs='+',
        metavar='LABEL=CHECKPOINT',
        help='labelled checkpoints of the student, distilled or not: alone=A.pth RSD=B.pth',
    )
    parser.add_argument('--images', type=positive_int, default=images, help=f'validation images (default: {images})')
    parser.add_argument('-o', '--out', default=out, help=f'the picture (default: {out})')
    add_cfg_options(parser)


def parse_labels(arguments: List[str], what: str) -> Dict[str, str]:
    """Parse ``LABEL=PATH`` arguments.

    Raises:
        SystemExit: If one has another form, or a path does not exist.
    """
    paths: Dict[str, str] = {}
    for argument in arguments:
        label, _, path = argument.partition('=')
        if not label or not path:
            raise SystemExit(f'{argument!r}: expected LABEL={what}, e.g. alone=work_dirs/alone/epoch_30.pth.')
        if not osp.exists(path):
            raise SystemExit(f'{argument!r}: {path!r} does not exist (looked in {osp.abspath(path)!r}).')
        paths[label] = path
    return paths
