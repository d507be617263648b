# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Does the student see what the teacher sees? ``python tools/analysis/similarity.py CONFIG alone=A.pth RSD=B.pth``.

Draws the linear centred kernel alignment (CKA) between the stages of the teacher and those of every given student, on
validation images, and prints it.
"""

import argparse
import sys
from pathlib import Path
from typing import Dict, List

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tools/, of which this script uses modules

from common.analysis import add_student_arguments, labelled, load_distillation
from common.report import markdown_table
from rsd_mm.models.distillers import resolve_tap
from rsd_mm.utils import load_strictly
from rsd_mm.visualization import MinibatchCKA, read_features

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


def draw(values: Dict[str, np.ndarray], rows: List[str], columns: List[str], path: str) -> None:
    """One heat map for every student, on one scale."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, len(values), figsize=(3.2 * len(values) + 1.2, 3.4), squeeze=False, layout='constrained'
    )
    for axis, (label, matrix) in zip(axes[0], values.items()):
        image = axis.imshow(matrix, vmin=0, vmax=1, cmap='viridis')
        for (i, j), value in np.ndenumerate(matrix):
            axis.text(j, i, f'{value:.2f}', ha='center', va='center', color='w' if value < 0.6 else 'k', fontsize=8)
        axis.set_xticks(range(len(columns)), columns, rotation=45, ha='right')
        axis.set_yticks(range(len(rows)), rows)
        axis.set(title=label, xlabel='teacher')
    axes[0][0].set_ylabel('student')
    figure.colorbar(image, ax=axes[0].tolist(), label='linear CKA', shrink=0.8)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    args = parse_args()
    students = labelled(args.students, 'CHECKPOINT')
    model, loader = load_distillation(args)
    try:
        own = [resolve_tap(model.student, tap, 'student') for tap in args.student_taps]
        taught = [model.teacher.tap(tap) for tap in args.teacher_taps]
    except ValueError as error:
        raise SystemExit(f'{error} Choose with --student-taps and --teacher-taps.') from None
    values = {}
    for label, path in students.items():
        load_strictly(model.student, path, 'student')
        cka = MinibatchCKA(args.student_taps, args.teacher_taps)
        with tqdm(total=args.images, desc=label, unit='image', disable=None) as bar:
            for s, t, labels in read_features(model, loader, own, taught, args.images):
                if len(labels) >= 4:  # fewer are left over by the last batch
                    cka.update(s, t)
                bar.update(len(labels))
        values[label] = cka.compute()
        rows = [[name, *(f'{value:.3f}' for value in row)] for name, row in zip(args.student_taps, values[label])]
        print(f'\n{label}, linear CKA (rows: student, columns: teacher)\n')
        print(markdown_table(['', *args.teacher_taps], rows))
    draw(values, args.student_taps, args.teacher_taps, args.out)
    print(f'\nWritten: {args.out}')


if __name__ == '__main__':
    main()
