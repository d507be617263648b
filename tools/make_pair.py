# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Write the config of a distillation between any two models.

``python tools/make_pair.py --teacher NAME --student NAME --dataset cifar100|in1k|PATH [-o FILE]``

NAME is a classifier of MMPretrain's model index (``mmpretrain.list_models(task='Image Classification')``), or
``timm/NAME``. PATH is a folder with ``train/CLASS/*.jpg`` and ``val/CLASS/*.jpg``. The config is in the style of
``configs/rsd``, with the published recipe for the student's family, and ready for ``tools/train.py``: the tool builds
the pair with random weights and computes its loss on two images.
"""

import argparse
import os
import os.path as osp
from typing import List

import torch
from mmengine.analysis import parameter_count
from mmengine.config import Config
from mmpretrain.structures import DataSample

from common.arguments import name_of
from common.configs import build_with_random_weights, hide_warnings
from common.networks import family_of, resolve_dataset, resolve_network
from common.recipes import RECIPES, data_settings, finetuning_settings, student_changes, teacher_settings
from common.sources import write_config


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Write the config of a distillation between any two models')
    parser.add_argument('--teacher', required=True, help="a name of MMPretrain's model index, or timm/NAME")
    parser.add_argument('--student', required=True, help="a name of MMPretrain's model index, or timm/NAME")
    parser.add_argument('--dataset', required=True, help='in1k, cifar100, or a folder with train/CLASS and val/CLASS')
    parser.add_argument('-o', '--out', help='default: TEACHER_to_STUDENT_DATASET.py in the current folder')
    parser.add_argument(
        '--teacher-checkpoint',
        help="the teacher's weights, for its own classes or the dataset's (default: the published ones)",
    )
    parser.add_argument(
        '--finetune-teacher',
        action='store_true',
        help='also write TEACHER_DATASET.py, to train the teacher on the dataset first',
    )
    parser.add_argument(
        '--recipe',
        choices=['cnn', 'token'],
        help='cnn: SGD and little augmentation; token: AdamW, RandAugment, Mixup and CutMix (default: token for '
        'students that MMPretrain trains with AdamW, or that have LayerNorm or hardly any convolutions)',
    )
    parser.add_argument('--force', action='store_true', help='overwrite existing files')
    args = parser.parse_args()
    if args.teacher_checkpoint and args.finetune_teacher:
        parser.error('--finetune-teacher trains the weights that --teacher-checkpoint gives: choose one of them.')
    return args


def check(path: str, side: int) -> str:
    """Build a pair and compute its loss on two images; return its cost."""
    model = build_with_random_weights(Config.fromfile(path)).train()
    images = list(torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8))
    samples = [DataSample().set_gt_label(label) for label in (0, 1)]
    model(**model.data_preprocessor(dict(inputs=images, data_samples=samples), training=True), mode='loss')
    student, extra = (parameter_count(part)[''] / 1e6 for part in (model.student, model.terms))
    return f'student {student:.2f} M parameters, projector {extra:.2f} M'


def make_pair(args: argparse.Namespace, written: List[str]) -> None:
    """Write the configs and print what to do with them; ``written`` gets their paths.

    Raises:
        ValueError: If the arguments do not make a pair.
    """
    teacher, student = resolve_network(args.teacher, 'teacher'), resolve_network(args.student, 'student')
    data = resolve_dataset(args.dataset)
    short = [name.rpartition('/')[2].lower() for name in (args.teacher, args.student)]
    out = args.out or f'{"_to_".join(short)}_{data.name}.py'
    tuned = osp.join(osp.dirname(out), f'{short[0]}_{data.name}.py')
    for path in [out, tuned] if args.finetune_teacher else [out]:
        if osp.exists(path) and not args.force:
            raise ValueError(f'{path!r} exists. Choose another name with -o, or overwrite it with --force.')
    os.makedirs(osp.dirname(osp.abspath(out)), exist_ok=True)
    family = args.recipe or family_of(student)
    if args.finetune_teacher:
        bases = [f'datasets/{RECIPES[data.kind, "cnn"][0]}', 'schedules/finetune_30e', 'default_runtime']
        comment = f'Fine-tunes {teacher.name} on {data.name}, as a teacher.'
        write_config(tuned, comment, bases, finetuning_settings(teacher, data))
        written.append(tuned)
        weights = f'work_dirs/{name_of(tuned)}/epoch_30.pth'
        teacher_cfg = dict(cfg_path='{{ fileDirname }}/' + osp.basename(tuned), checkpoint=weights)
        if teacher.side != student.side:
            teacher_cfg['input_size'] = teacher.side
    else:
        teacher_cfg = teacher_settings(teacher, data, student.side, args.teacher_checkpoint)
    dataset, schedule, runtime = RECIPES[data.kind, family]
    model = dict(student={**student.reference, **student_changes(student.model, data, family)}, teacher=teacher_cfg)
    bases = ['methods/rsd', f'datasets/{dataset}', f'schedules/{schedule}', runtime]
    settings = dict(model=model, **data_settings(data, dataset, student.side))
    write_config(out, f'{args.teacher} teaches {args.student} on {data.name}.', bases, settings)
    written.append(out)
    cost = check(out, student.side)
    print(f'{out}: {args.teacher} to {args.student} on {data.classes} classes, {family} recipe; {cost}')
    if args.finetune_teacher:
        print(f'First the teacher:  python tools/train.py {tuned}')
    elif teacher_cfg.get('pretrained') and data.kind != 'in1k':
        print(
            'The published teacher classifies its own dataset. Its embeddings can be distilled all the same, but a '
            'teacher that knows the new classes is better: see --finetune-teacher and --teacher-checkpoint.'
        )
    print(f'Train:  python tools/train.py {out}')


def main() -> None:
    args = parse_args()
    hide_warnings()
    written: List[str] = []
    try:
        make_pair(args, written)
    except (ValueError, RuntimeError) as error:
        for path in written:
            if osp.exists(path):
                os.remove(path)
        raise SystemExit(f'make_pair: {error}') from None


if __name__ == '__main__':
    main()
