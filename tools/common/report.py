# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""What the tools that run several trainings share: schedules, tables and pictures."""

import statistics
from typing import Dict, List, Optional, Sequence, Tuple

from mmengine.config import Config

#: Epochs (or iterations), and the validation accuracy at each.
Curve = Tuple[List[int], List[float]]


def scale_schedule(cfg: Config, epochs: int) -> None:
    """Stretch or shrink the schedule of a config to another number of epochs."""
    factor = epochs / cfg.train_cfg.max_epochs
    for scheduler in cfg.param_scheduler:
        for key in ('begin', 'end'):
            if key in scheduler:
                scheduler[key] = round(scheduler[key] * factor)
    # A phase that has shrunk to nothing has no length to divide by.
    cfg.param_scheduler = [s for s in cfg.param_scheduler if s.get('begin', 0) < s.get('end', epochs)]
    cfg.train_cfg.max_epochs = epochs
    if epochs % cfg.train_cfg.get('val_interval', 1):
        cfg.train_cfg.val_interval = 1  # so that the last epoch is validated


def spread(values: Sequence[float]) -> float:
    """The standard deviation of a sample, 0 for a single value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def mean_and_spread(values: Sequence[float], digits: int = 1) -> str:
    """``94.6 +- 1.1``, or the value alone if there is one."""
    text = f'{statistics.mean(values):.{digits}f}'
    return text + (f' +- {spread(values):.{digits}f}' if len(values) > 1 else '')


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns are aligned in the text as well."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = [header, ['-' * width for width in widths], *rows]
    return '\n'.join(f'| {" | ".join(cell.ljust(w) for cell, w in zip(row, widths))} |' for row in lines)


def draw_accuracies(
    curves: Dict[str, List[Curve]], path: str, title: str, teacher: Optional[float] = None, unit: str = 'epoch'
) -> None:
    """Draw learning curves, and final accuracies with every seed.

    Args:
        curves (Dict[str, List[Curve]]): The curves of each model by its label, one
            for each seed; the first model, drawn in gray, is what the others are
            compared with.
        path (str): The picture to write.
        title (str): What stands above it.
        teacher (float, optional): The accuracy of a teacher, drawn as a line.
        unit (str): What the curves count. Defaults to ``epoch``.
    """
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    palette = plt.get_cmap('tab10' if len(curves) <= 11 else 'tab20')
    colors = dict(zip(curves, ['tab:gray', *(palette(i % palette.N) for i in range(len(curves) - 1))]))
    many = len(curves) > 3
    size = (9 + 0.4 * len(curves) * many, 4.5 if many else 3.6)
    figure, (left, right) = plt.subplots(1, 2, figsize=size, width_ratios=(1, 1) if many else (2, 1), sharey=True)
    for label, runs in curves.items():
        if many and len({tuple(steps) for steps, _ in runs}) == 1:  # the means alone: more lines can't be told apart
            runs = [(runs[0][0], [statistics.mean(values) for values in zip(*(values for _, values in runs))])]
        for i, (steps, values) in enumerate(runs):
            left.plot(steps, values, color=colors[label], marker=None if many else '.', label=None if i else label)
    for axes in (left, right):
        if teacher is not None:
            axes.axhline(teacher, color='black', linestyle='--', lw=1, label='teacher')
        axes.grid(alpha=0.3)
    left.set(xlabel=unit + ' (mean of the seeds)' * many, ylabel='top-1 accuracy (%)')
    left.legend(loc='lower right', fontsize=8, ncols=2 if many else 1)
    finals = {label: [values[-1] for _, values in runs] for label, runs in curves.items()}
    lowest = min(min(values) for values in finals.values())
    highest = max(max(values) for values in finals.values())
    for x, (label, values) in enumerate(finals.items()):
        mean = statistics.mean(values)
        if many:  # the axis does not begin at zero, as that of bars has to
            right.errorbar(x, mean, yerr=spread(values), color=colors[label], fmt='_', markersize=16, capsize=5)
        else:
            right.bar(x, mean, yerr=spread(values), color=colors[label], alpha=0.5, capsize=4)
        right.scatter([x] * len(values), values, color=[colors[label]], s=12, zorder=3)
        place = (0, 12 if many else -18)  # above a point, within a bar
        right.annotate(f'{mean:.1f}', (x, mean), place, textcoords='offset points', ha='center', fontsize=8)
    right.set_xticks(range(len(finals)), finals, rotation=60 if many else 0, ha='right' if many else 'center')
    if many:
        margin = max(highest - lowest, 1.0)
        left.set_ylim(max(0.0, lowest - 1.5 * margin), min(102.0, max(highest, teacher or 0) + 0.5 * margin))
    else:
        left.set_ylim(0, 102)
    seeds = max(len(values) for values in finals.values())
    right.set_xlabel(f'at the end ({seeds} seed{"s" if seeds > 1 else ""})')
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)
