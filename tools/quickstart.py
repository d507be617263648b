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
from typing import Dict, List, Tuple

CONFIGS = osp.join(osp.dirname(osp.abspath(__file__)), '..', 'configs', 'quickstart')
TEACHER = 'resnet_digits'
ALONE = 'vit_digits'
RSD = 'resnet_to_vit_digits'

Curve = Tuple[List[int], List[float]]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='A teacher, a student alone, and the student with RSD, on digits')
    parser.add_argument('--seeds', type=int, default=3, help='how often each student is trained (default: 3)')
    parser.add_argument('--work-dir', default='work_dirs/quickstart', help='default: work_dirs/quickstart')
    parser.add_argument('--epochs', type=int, help='epochs of every run (default: those of the configs)')
    args = parser.parse_args()
    if args.seeds < 1 or (args.epochs is not None and args.epochs < 1):
        parser.error('--seeds and --epochs are at least 1.')
    return args


def train(name: str, label: str, args: argparse.Namespace, seed: int, teacher: str = '') -> Curve:
    """Train one model by its config; its validation accuracy over the epochs."""
    from mmengine.config import Config
    from mmengine.runner import Runner

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


def scale_schedule(cfg, epochs: int) -> None:
    """Stretch or shrink the schedule of a config to another number of epochs."""
    factor = epochs / cfg.train_cfg.max_epochs
    for scheduler in cfg.param_scheduler:
        for key in ('begin', 'end'):
            if key in scheduler:
                scheduler[key] = round(scheduler[key] * factor)
    # A phase that has shrunk to nothing has no length to divide by.
    cfg.param_scheduler = [s for s in cfg.param_scheduler if s.get('begin', 0) < s.end]
    cfg.train_cfg.max_epochs = epochs
    if epochs % cfg.train_cfg.val_interval:
        cfg.train_cfg.val_interval = 1  # so that the last epoch is validated


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


def spread(values: List[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def table(summary: Dict) -> str:
    """The result as a Markdown table."""
    rows = [('model', 'top-1 %, test', 'seeds')]
    rows.append((f'teacher: {summary["teacher"]["name"]}', f'{summary["teacher"]["top1"]:.1f}', '1'))
    for key, label in (('alone', 'student alone'), ('rsd', 'student with RSD')):
        values = summary[key]
        text = f'{statistics.mean(values):.1f}' + (f' +- {spread(values):.1f}' if len(values) > 1 else '')
        rows.append((label, text, str(len(values))))
    rows.insert(1, ('---', '---', '---'))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = []
    for row in rows:
        cells = [('-' * width if cell == '---' else cell.ljust(width)) for cell, width in zip(row, widths)]
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)


def draw(summary: Dict, curves: Dict[str, List[Curve]], path: str) -> None:
    """Learning curves, and the final accuracies with every seed."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    colors = dict(alone='tab:gray', rsd='tab:blue')
    labels = dict(alone='student alone', rsd='student with RSD')
    teacher = summary['teacher']
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), width_ratios=(2, 1), sharey=True)
    for key, runs in curves.items():
        for i, (epochs, values) in enumerate(runs):
            left.plot(epochs, values, color=colors[key], marker='.', label=None if i else labels[key])
    for axes in (left, right):
        axes.axhline(teacher['top1'], color='tab:orange', linestyle='--', label='teacher')
        axes.grid(alpha=0.3)
    left.set(xlabel='epoch', ylabel='top-1 accuracy on test images (%)')
    left.legend(loc='lower right')
    for x, key in enumerate(curves):
        values = summary[key]
        right.bar(x, statistics.mean(values), yerr=spread(values), color=colors[key], alpha=0.5, capsize=4)
        right.scatter([x] * len(values), values, color=colors[key], s=12, zorder=3)
        right.annotate(f'{statistics.mean(values):.1f}', (x, 3), ha='center')
    right.set(xticks=range(len(curves)), xticklabels=['alone', 'RSD'], ylim=(0, 102))
    right.set_xlabel(f'at the end ({len(summary["alone"])} seed{"s" if len(summary["alone"]) > 1 else ""})')
    figure.suptitle('A small ViT on handwritten digits, alone and taught by a CNN')
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    args = parse_args()
    start = time.perf_counter()
    warnings.filterwarnings('ignore', category=UserWarning)
    import rsd_mm  # noqa: F401 (registers its parts, and says what is missing)

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
    draw(summary, curves, osp.join(args.work_dir, 'summary.png'))
    gain = statistics.mean(summary['rsd']) - statistics.mean(summary['alone'])
    print(f'\n{table(summary)}\n')
    print(f'RSD changes the student by {gain:+.1f} points on average. {summary["seconds"]:.0f} seconds in all.')
    print(f'Written: {args.work_dir}/summary.json and {args.work_dir}/summary.png')


if __name__ == '__main__':
    main()
