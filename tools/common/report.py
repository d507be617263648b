# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Means over seeds, tables and plots."""

import statistics
from typing import Dict, List, Optional, Sequence

import matplotlib
from matplotlib.figure import Figure

from common.logs import Curve


def spread(values: Sequence[float]) -> float:
    """Return the sample's standard deviation, 0 for a single value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def mean_and_spread(values: Sequence[float]) -> str:
    """Format as ``94.6 +- 1.1``, or a single value as it is."""
    text = f'{statistics.mean(values):.1f}'
    return text + (f' +- {spread(values):.1f}' if len(values) > 1 else '')


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with aligned columns."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = [header, ['-' * width for width in widths], *rows]
    return '\n'.join(f'| {" | ".join(cell.ljust(w) for cell, w in zip(row, widths))} |' for row in lines)


def panels(count: int) -> Figure:
    """Return a figure for this many plots in a row."""
    return Figure(figsize=(3.2 * count + 1.2, 3.4), layout='constrained')


def draw_accuracies(
    curves: Dict[str, List[Curve]], path: str, title: str, teacher: Optional[float] = None, unit: str = 'epoch'
) -> None:
    """Draw learning curves, and the final accuracy of every seed.

    Args:
        curves (Dict[str, List[Curve]]): Curves by label, one per seed. The first label,
            drawn in gray, is what the others are compared with.
        path (str): The picture to write.
        title (str): Title of the figure.
        teacher (float, optional): Accuracy of a teacher, drawn as a line.
        unit (str): Unit of the steps. Defaults to ``epoch``.
    """
    palette = matplotlib.colormaps['tab10' if len(curves) <= 11 else 'tab20']
    colors = dict(zip(curves, ['tab:gray', *(palette(i % palette.N) for i in range(len(curves) - 1))]))
    many = len(curves) > 3
    figure = Figure(figsize=(9 + 0.4 * len(curves) * many, 4.5 if many else 3.6))
    left, right = figure.subplots(1, 2, width_ratios=(1, 1) if many else (2, 1), sharey=True)
    for label, runs in curves.items():
        if many and len({tuple(steps) for steps, _ in runs}) == 1:  # More lines could not be told apart.
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
        if many:  # Bars would have to start at zero.
            right.errorbar(x, mean, yerr=spread(values), color=colors[label], fmt='_', markersize=16, capsize=5)
        else:
            right.bar(x, mean, yerr=spread(values), color=colors[label], alpha=0.5, capsize=4)
        right.scatter([x] * len(values), values, color=[colors[label]], s=12, zorder=3)
        offset = (0, 12 if many else -18)  # Above a point, inside a bar.
        right.annotate(f'{mean:.1f}', (x, mean), offset, textcoords='offset points', ha='center', fontsize=8)
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
