# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""See RSD improve a student, on a laptop, in minutes: ``python tools/quickstart.py``.

On scikit-learn's handwritten digits, trains a small CNN, then a small vision
transformer alone and with RSD from that CNN, using the configs in
``configs/quickstart``. Prints a table, and writes ``summary.json`` and
``summary.png`` to the work dir.
"""

import argparse
import json
import os
import os.path as osp
import statistics
import time
import warnings
from typing import Dict, List

from common.arguments import CONFIGS, positive_int
from common.logs import Curve

TEACHER = 'resnet_digits'
STUDENTS = dict(alone='vit_digits', rsd='resnet_to_vit_digits')
LABELS = dict(alone='student alone', rsd='student with RSD')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Train a teacher, a student alone, and the student with RSD, on digits'
    )
    parser.add_argument('--seeds', type=positive_int, default=3, help='runs of each student (default: 3)')
    parser.add_argument('--work-dir', default='work_dirs/quickstart', help='default: work_dirs/quickstart')
    parser.add_argument('--epochs', type=positive_int, help='epochs of every run (default: those of the configs)')
    return parser.parse_args()


def train(name: str, label: str, args: argparse.Namespace, seed: int, teacher: str = '') -> Curve:
    """Train one model by its config; return its validation accuracy by epoch."""
    from mmengine.config import Config
    from mmengine.runner import Runner

    from common.configs import scale_schedule
    from common.progress import ProgressHook

    start = time.perf_counter()
    cfg = Config.fromfile(osp.join(CONFIGS, 'quickstart', f'{name}.py'))
    cfg.work_dir = osp.join(args.work_dir, name if name == TEACHER else f'{name}_seed{seed}')
    cfg.randomness = dict(seed=seed)
    cfg.log_level = 'ERROR'
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=-1, save_last=True)
    cfg.experiment_name = f'{name}_{seed}_{time.time_ns()}'  # Unique, for several runs in one process.
    if args.epochs:
        scale_schedule(cfg, args.epochs)
    if teacher:
        cfg.model.teacher.checkpoint = teacher
    runner = Runner.from_cfg(cfg)
    runner.register_hook(ProgressHook(label))
    runner.train()
    interval = cfg.train_cfg.val_interval
    epochs = list(range(interval, runner.max_epochs + 1, interval))
    values, _ = runner.message_hub.get_scalar('val/accuracy/top1').data
    seconds = time.perf_counter() - start
    print(f'{label:<22} top-1 {values[-1]:5.1f} %  ({runner.max_epochs} epochs, {seconds:.0f} s)', flush=True)
    return epochs, [float(value) for value in values]


def main() -> None:
    args = parse_args()
    start = time.perf_counter()
    # Importing mmpretrain warns as well.
    warnings.filterwarnings('ignore', category=UserWarning)
    import rsd_mm  # noqa: F401 (before the others, since it reports missing packages)

    os.makedirs(args.work_dir, exist_ok=True)
    from mmengine.runner import find_latest_checkpoint

    from common.report import draw_accuracies, markdown_table, mean_and_spread

    print('Training a CNN teacher, then a ViT alone and with RSD, on handwritten digits (1,200 images of 8 x 8).')
    _, teacher = train(TEACHER, 'teacher (CNN)', args, seed=0)
    checkpoint = find_latest_checkpoint(osp.join(args.work_dir, TEACHER))
    curves: Dict[str, List[Curve]] = dict(alone=[], rsd=[])
    for seed in range(args.seeds):
        curves['alone'].append(train(STUDENTS['alone'], f'ViT alone, seed {seed}', args, seed))
        curves['rsd'].append(train(STUDENTS['rsd'], f'ViT with RSD, seed {seed}', args, seed, checkpoint))
    finals = {key: [values[-1] for _, values in runs] for key, runs in curves.items()}
    name, seconds = 'ResNet-18 (16 channels)', round(time.perf_counter() - start, 1)
    with open(osp.join(args.work_dir, 'summary.json'), 'w', encoding='utf-8') as file:
        json.dump(dict(teacher=dict(name=name, top1=teacher[-1]), **finals, seconds=seconds), file, indent=2)
    draw_accuracies(
        {LABELS[key]: runs for key, runs in curves.items()},
        osp.join(args.work_dir, 'summary.png'),
        'A small ViT on handwritten digits, alone and taught by a CNN',
        teacher=teacher[-1],
    )
    rows = [[LABELS[key], mean_and_spread(values), str(len(values))] for key, values in finals.items()]
    rows.insert(0, [f'teacher: {name}', f'{teacher[-1]:.1f}', '1'])
    print(f'\n{markdown_table(["model", "top-1 %, test", "seeds"], rows)}\n')
    gain = statistics.mean(finals['rsd']) - statistics.mean(finals['alone'])
    print(f'RSD changes the student by {gain:+.1f} points on average. {seconds:.0f} seconds in total.')
    print(f'Written: {args.work_dir}/summary.json and {args.work_dir}/summary.png')


if __name__ == '__main__':
    main()
