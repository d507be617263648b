# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Plot learning curves of several runs: ``python tools/analysis/curves.py alone=WORK_DIR RSD=WORK_DIR``."""

import argparse
import sys
from pathlib import Path

from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # For the modules in tools/.

from common.arguments import parse_labels
from common.logs import Curve, curve_of, read_scalars


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Plot learning curves of several runs')
    parser.add_argument('runs', nargs='+', metavar='LABEL=WORK_DIR', help='labelled work dirs')
    parser.add_argument('--key', default='accuracy/top1', help='key of the log to plot (default: accuracy/top1)')
    parser.add_argument('-o', '--out', default='curves.png', help='the picture (default: curves.png)')
    return parser.parse_args()


def read_curve(work_dir: str, key: str) -> Curve:
    """Return a run's values of a key; exit if it has none."""
    records = list(read_scalars(work_dir))
    steps, values = curve_of(records, key)
    if not steps:
        known = ', '.join(sorted({name for record in records for name in record} - {'step'}))
        known = known or f'no log (looked in {work_dir!r}/*/vis_data)'
        raise SystemExit(f'{work_dir!r} has no {key!r}; it has: {known}.')
    return steps, values


def main() -> None:
    args = parse_args()
    figure = Figure(figsize=(5, 3.4), layout='constrained')
    axes = figure.subplots()
    for label, path in parse_labels(args.runs, 'WORK_DIR').items():
        steps, values = read_curve(path, args.key)
        axes.plot(steps, values, marker='.' if len(steps) < 50 else None, label=label)
        print(f'{label}: {args.key} {values[-1]:.4g} at the end, {max(values):.4g} at most ({len(steps)} values)')
    ylabel = 'top-1 accuracy on validation images (%)' if args.key == 'accuracy/top1' else args.key
    axes.set(xlabel='epoch' if args.key.startswith('accuracy') else 'step of the log', ylabel=ylabel)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(args.out, dpi=150)
    print(f'Written: {args.out}')


if __name__ == '__main__':
    main()
