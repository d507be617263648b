# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Compare stages of teacher and students: ``python tools/analysis/similarity.py CONFIG alone=A.pth RSD=B.pth``.

Plots and prints the linear centered kernel alignment (CKA) between the stages of the teacher and those of every given
student on validation images.
"""

import argparse
import sys
from pathlib import Path
from typing import Callable, Dict, List

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # For the modules in tools/.

from common.arguments import add_student_arguments, parse_labels
from common.report import markdown_table, panels
from common.students import load_distillation, student_features
from rsd_mm.models.taps import Tap, resolve_tap
from rsd_mm.visualization import MinibatchCKA

STAGES = ['stage1', 'stage2', 'stage3', 'stage4', 'embedding']


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='CKA between the stages of a teacher and of students')
    add_student_arguments(parser, images=1024, out='similarity.png')
    parser.add_argument('--student-taps', nargs='+', default=STAGES, help=f'default: {" ".join(STAGES)}')
    parser.add_argument('--teacher-taps', nargs='+', default=STAGES, help='likewise')
    args = parser.parse_args()
    if args.images < 4:
        parser.error('--images is at least 4.')
    return args


def resolve_taps(names: List[str], resolve: Callable[[str], Tap]) -> Dict[str, Tap]:
    """Locate taps by name; those of the default that a network does not have are left out.

    Raises:
        SystemExit: If a tap of the command line does not exist.
    """
    taps = {}
    for name in names:
        try:
            taps[name] = resolve(name)
        except ValueError as error:
            if names is not STAGES or name == 'embedding':
                raise SystemExit(f'{error} Choose with --student-taps and --teacher-taps.') from None
            print(f'LEFT OUT: {name}. {error}')
    return taps


def draw(values: Dict[str, np.ndarray], rows: List[str], columns: List[str], path: str) -> None:
    """Draw one heat map per student, on one scale."""
    figure = panels(len(values))
    (grid,) = figure.subplots(1, len(values), squeeze=False)
    for axes, (label, matrix) in zip(grid, values.items()):
        image = axes.imshow(matrix, vmin=0, vmax=1, cmap='viridis')
        for (i, j), value in np.ndenumerate(matrix):
            axes.text(j, i, f'{value:.2f}', ha='center', va='center', color='w' if value < 0.6 else 'k', fontsize=8)
        axes.set_xticks(range(len(columns)), columns, rotation=45, ha='right')
        axes.set_yticks(range(len(rows)), rows)
        axes.set(title=label, xlabel='teacher')
    grid[0].set_ylabel('student')
    figure.colorbar(image, ax=grid.tolist(), label='linear CKA', shrink=0.8)
    figure.savefig(path, dpi=150)


def main() -> None:
    args = parse_args()
    students = parse_labels(args.students, 'CHECKPOINT')
    model, loader = load_distillation(args)
    own = resolve_taps(args.student_taps, lambda tap: resolve_tap(model.student, tap, 'student'))
    taught = resolve_taps(args.teacher_taps, model.teacher.tap)
    taps, rows, columns = (list(own.values()), list(taught.values())), list(own), list(taught)
    values = {}
    for label, path in students.items():
        cka = MinibatchCKA(rows, columns)
        for student, teacher, labels in student_features(model, loader, label, path, taps, args.images):
            if len(labels) >= 4:  # The last batch may have fewer.
                cka.update(student, teacher)
        values[label] = cka.compute()
        cells = [[name, *(f'{value:.3f}' for value in row)] for name, row in zip(rows, values[label])]
        print(f'\n{label}, linear CKA (rows: student, columns: teacher)\n')
        print(markdown_table(['', *columns], cells))
    draw(values, rows, columns, args.out)
    print(f'\nWritten: {args.out}')


if __name__ == '__main__':
    main()
