# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Learning curves of several runs in one picture: ``python tools/analysis/curves.py alone=WORK_DIR RSD=WORK_DIR``."""

import argparse
import json
import os.path as osp
import sys
from glob import escape, glob
from pathlib import Path
from typing import Dict, List

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tools/, of which this script uses modules

from common.analysis import labelled
from common.report import Curve


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Learning curves of several runs')
    parser.add_argument('runs', nargs='+', metavar='LABEL=WORK_DIR', help='work dirs, and what to call the runs')
    parser.add_argument('--key', default='accuracy/top1', help='what to draw, as in the log (default: accuracy/top1)')
    parser.add_argument('-o', '--out', default='curves.png', help='the picture (default: curves.png)')
    return parser.parse_args()


def read(work_dir: str, key: str) -> Curve:
    """The values of a run; those of a resumed one follow those of before."""
    values: Dict[int, float] = {}
    logs = sorted(glob(osp.join(escape(work_dir), '*', 'vis_data', 'scalars.json')))
    keys: List[str] = []
    for log in logs:
        with open(log, encoding='utf-8') as file:
            for line in file:
                entry = json.loads(line)
                keys += [name for name in entry if name not in keys]
                if key in entry:
                    values[int(entry['step'])] = float(entry[key])
    if not values:
        known = ', '.join(sorted(set(keys) - {'step'})) or f'no log (looked in {work_dir!r}/*/vis_data)'
        raise SystemExit(f'{work_dir!r} has no {key!r}; it has: {known}.')
    steps = sorted(values)
    return steps, [values[step] for step in steps]


def main() -> None:
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    args = parse_args()
    figure, axes = plt.subplots(figsize=(5, 3.4), layout='constrained')
    for label, path in labelled(args.runs, 'WORK_DIR').items():
        steps, values = read(path, args.key)
        axes.plot(steps, values, marker='.' if len(steps) < 50 else None, label=label)
        print(f'{label}: {args.key} {values[-1]:.4g} at the end, {max(values):.4g} at most ({len(steps)} values)')
    named = 'top-1 accuracy on validation images (%)' if args.key == 'accuracy/top1' else args.key
    axes.set(xlabel='epoch' if args.key.startswith('accuracy') else 'step of the log', ylabel=named)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(args.out, dpi=150)
    plt.close(figure)
    print(f'Written: {args.out}')


if __name__ == '__main__':
    main()
