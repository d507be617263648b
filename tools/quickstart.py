# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Watch RSD make a student better, on a laptop, in minutes: ``python tools/quickstart.py``.

Trains a small CNN on scikit-learn's handwritten digits, then a small vision
transformer alone and with RSD from that CNN, by the configs in
``configs/quickstart`` and mmengine's Runner. Prints a table, and writes
``summary.json`` and ``summary.png`` to the work dir.
"""

import argparse
import json
import os
import os.path as osp
import statistics
import time
import warnings
from typing import TYPE_CHECKING, Dict, List

if TYPE_CHECKING:
    from common.report import Curve

CONFIGS = osp.join(osp.dirname(osp.abspath(__file__)), '..', 'configs', 'quickstart')
TEACHER = 'resnet_digits'
ALONE = 'vit_digits'
RSD = 'resnet_to_vit_digits'
LABELS = dict(alone='student alone', rsd='student with RSD')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='A teacher, a student alone, and the student with RSD, on digits')
    parser.add_argument('--seeds', type=int, default=3, help='how often each student is trained (default: 3)')
    parser.add_argument('--work-dir', default='work_dirs/quickstart', help='default: work_dirs/quickstart')
    parser.add_argument('--epochs', type=int, help='epochs of every run (default: those of the configs)')
    args = parser.parse_args()
    if args.seeds < 1 or (args.epochs is not None and args.epochs < 1):
        parser.error('--seeds and --epochs are at least 1.')
    return args


def train(name: str, label: str, args: argparse.Namespace, seed: int, teacher: str = '') -> 'Curve':
    """Train one model by its config; its validation accuracy over the epochs."""
    from mmengine.config import Config
    from mmengine.runner import Runner

    from common.report import scale_schedule

    cfg = Config.fromfile(osp.join(CONFIGS, f'{name}.py'))
    cfg.work_dir = osp.join(args.work_dir, name if name == TEACHER else f'{name}_seed{seed}')
    cfg.randomness = dict(seed=seed)
    cfg.log_level = 'ERROR'
    # The last checkpoint is enough, and the same file whatever the number of epochs.
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=-1, save_last=True)
    # Several runs in one process need names that differ.
    cfg.experiment_name = f'{name}_{seed}_{time.time_ns()}'
    if args.epochs:
        scale_schedule(cfg, args.epochs)
    if teacher:
        cfg.model.teacher.checkpoint = teacher
    runner = Runner.from_cfg(cfg)
    runner.register_hook(progress_hook(label), 'VERY_LOW')
    runner.train()
    interval = cfg.train_cfg.val_interval
    epochs = list(range(interval, runner.max_epochs + 1, interval))
    values, _ = runner.message_hub.get_scalar('val/accuracy/top1').data
    return epochs, [float(value) for value in values]


def last_checkpoint(work_dir: str) -> str:
    with open(osp.join(work_dir, 'last_checkpoint'), encoding='utf-8') as file:
        return file.read().strip()


def progress_hook(label: str):
    """Shows a bar that follows the epochs, and the accuracy so far."""
    from mmengine.hooks import Hook
    from tqdm import tqdm

    class ProgressHook(Hook):
        def before_train(self, runner):
            self.start = time.perf_counter()
            # No bar where it could not be redrawn, in a log file for example; one line a run is there anyway.
            self.bar = tqdm(total=runner.max_epochs, desc=label, unit='epoch', leave=False, disable=None)

        def after_train_epoch(self, runner):
            self.bar.update()

        def after_val_epoch(self, runner, metrics=None):
            self.top1 = metrics['accuracy/top1']
            self.bar.set_postfix_str(f'top-1 {self.top1:.1f} %')

        def after_train(self, runner):
            self.bar.close()
            seconds = time.perf_counter() - self.start
            print(f'{label:<22} top-1 {self.top1:5.1f} %  ({runner.max_epochs} epochs, {seconds:.0f} s)', flush=True)

    return ProgressHook()


def table(summary: Dict) -> str:
    """The result as a Markdown table."""
    from common.report import markdown_table, mean_and_spread

    rows = [[f'teacher: {summary["teacher"]["name"]}', f'{summary["teacher"]["top1"]:.1f}', '1']]
    for key, label in LABELS.items():
        rows.append([label, mean_and_spread(summary[key]), str(len(summary[key]))])
    return markdown_table(['model', 'top-1 %, test', 'seeds'], rows)


def main() -> None:
    args = parse_args()
    start = time.perf_counter()
    warnings.filterwarnings('ignore', category=UserWarning)
    # Registers its parts, and says what is missing.
    from common.report import draw_accuracies

    os.makedirs(args.work_dir, exist_ok=True)
    print('Training a CNN teacher, then a ViT alone and with RSD, on handwritten digits (1,200 images of 8 x 8).')
    _, teacher_top1 = train(TEACHER, 'teacher (CNN)', args, seed=0)
    checkpoint = last_checkpoint(osp.join(args.work_dir, TEACHER))
    curves: Dict[str, List[Curve]] = dict(alone=[], rsd=[])
    for seed in range(args.seeds):
        curves['alone'].append(train(ALONE, f'ViT alone, seed {seed}', args, seed))
        curves['rsd'].append(train(RSD, f'ViT with RSD, seed {seed}', args, seed, checkpoint))
    summary = dict(
        teacher=dict(name='ResNet-18 (16 channels)', top1=teacher_top1[-1]),
        alone=[values[-1] for _, values in curves['alone']],
        rsd=[values[-1] for _, values in curves['rsd']],
        seconds=round(time.perf_counter() - start, 1),
    )
    with open(osp.join(args.work_dir, 'summary.json'), 'w', encoding='utf-8') as file:
        json.dump(summary, file, indent=2)
    draw_accuracies(
        {label: curves[key] for key, label in LABELS.items()},
        osp.join(args.work_dir, 'summary.png'),
        'A small ViT on handwritten digits, alone and taught by a CNN',
        teacher=teacher_top1[-1],
    )
    gain = statistics.mean(summary['rsd']) - statistics.mean(summary['alone'])
    print(f'\n{table(summary)}\n')
    print(f'RSD changes the student by {gain:+.1f} points on average. {summary["seconds"]:.0f} seconds in all.')
    print(f'Written: {args.work_dir}/summary.json and {args.work_dir}/summary.png')


if __name__ == '__main__':
    main()
