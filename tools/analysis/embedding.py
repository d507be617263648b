# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Plot embeddings by t-SNE: ``python tools/analysis/embedding.py CONFIG alone=A.pth RSD=B.pth``.

Shows the embeddings of the teacher and of every given student for the same validation images, colored by class.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, Dict, List, Tuple

import matplotlib
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # For the modules in tools/.

from common.arguments import add_student_arguments, parse_labels
from common.report import panels
from common.students import load_distillation, student_features
from rsd_mm.models.distillers import resolve_tap
from rsd_mm.visualization import effective_rank


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='t-SNE of the embeddings of a teacher and of students')
    add_student_arguments(parser, images=1000, out='embedding.png')
    parser.add_argument('--classes', type=int, default=10, help='show the first classes only (default: 10)')
    parser.add_argument('--perplexity', type=float, default=30, help='perplexity of t-SNE (default: 30)')
    parser.add_argument('--seed', type=int, default=0, help='seed of t-SNE (default: 0)')
    args = parser.parse_args()
    if args.images <= args.perplexity:
        parser.error(f'--images has to exceed the perplexity, {args.perplexity:g}.')
    return args


def embeddings(
    model: Any, loader: Any, label: str, checkpoint: str, args: argparse.Namespace
) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return student's ``(N, D_s)`` and teacher's ``(N, D_t)`` embeddings and labels ``(N,)`` of the classes shown."""
    taps = [resolve_tap(model.student, 'embedding', 'student')], [model.teacher.tap('embedding')]
    batches = [(s, t, y) for (s,), (t,), y in student_features(model, loader, label, checkpoint, taps, args.images)]
    student, teacher, labels = (torch.cat(parts).cpu() for parts in zip(*batches))
    shown = labels < args.classes
    if int(shown.sum()) <= args.perplexity:
        raise SystemExit(
            f'{int(shown.sum())} of {len(labels)} images are of the first {args.classes} classes, not more than the '
            f'perplexity {args.perplexity:g}. Validation images may be sorted by class: raise --images.'
        )
    return student[shown].float().numpy(), teacher[shown].float().numpy(), labels[shown].numpy()


def draw(points: Dict[str, np.ndarray], labels: np.ndarray, names: List[str], path: str) -> None:
    figure = panels(len(points))
    palette = matplotlib.colormaps['tab10' if labels.max() < 10 else 'tab20']
    for axes, (label, xy) in zip(figure.subplots(1, len(points)), points.items()):
        for i in np.unique(labels):
            axes.scatter(*xy[labels == i].T, s=5, color=palette(i % palette.N), label=names[i])
        axes.set(title=label, xticks=[], yticks=[])
    figure.legend(*axes.get_legend_handles_labels(), loc='outside right center', fontsize=8, markerscale=2)
    figure.savefig(path, dpi=150)


def main() -> None:
    args = parse_args()
    students = parse_labels(args.students, 'CHECKPOINT')
    model, loader = load_distillation(args)
    features: Dict[str, np.ndarray] = {}
    for label, path in students.items():
        features[label], teacher, labels = embeddings(model, loader, label, path, args)
    from sklearn.manifold import TSNE

    points = {}
    for label, values in {'teacher': teacher, **features}.items():
        rank = effective_rank(torch.from_numpy(values))
        print(f'{label}: {values.shape[1]} features, effective rank {rank:.1f}; placing {len(values)} images...')
        scaled = (values - values.mean(0)) / (values.std(0) + 1e-5)
        points[label] = TSNE(perplexity=args.perplexity, random_state=args.seed, init='pca').fit_transform(scaled)
    meta = getattr(loader.dataset, 'metainfo', None) or {}
    draw(points, labels, list(meta.get('classes') or map(str, range(int(labels.max()) + 1))), args.out)
    print(f'Written: {args.out}')


if __name__ == '__main__':
    main()
