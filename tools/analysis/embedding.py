# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""How do embeddings lie? ``python tools/analysis/embedding.py CONFIG alone=A.pth RSD=B.pth``.

Draws t-SNE of the embeddings of the teacher and of every given student, for the same validation images, by class.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np
import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tools/, of which this script uses modules

from common.analysis import add_student_arguments, labelled, load_distillation
from rsd_mm.models.distillers import resolve_tap
from rsd_mm.utils import load_strictly
from rsd_mm.visualization import effective_rank, read_features


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='t-SNE of the embeddings of a teacher and of students')
    add_student_arguments(parser, images=1000, out='embedding.png')
    parser.add_argument('--classes', type=int, default=10, help='show the first of the classes (default: 10)')
    parser.add_argument('--perplexity', type=float, default=30, help="t-SNE's (default: 30)")
    parser.add_argument('--seed', type=int, default=0, help="t-SNE's (default: 0)")
    args = parser.parse_args()
    if args.images <= args.perplexity:
        parser.error(f'--images has to be more than the perplexity, {args.perplexity:g}.')
    return args


def embeddings(model: Any, loader: Any, args: argparse.Namespace, label: str) -> Tuple[np.ndarray, ...]:
    """Embeddings of student and teacher, ``(N, D_s)`` and ``(N, D_t)``, and labels ``(N,)``, of the classes shown."""
    own, taught = resolve_tap(model.student, 'embedding', 'student'), model.teacher.tap('embedding')
    parts: List[List[torch.Tensor]] = [[], [], []]
    with tqdm(total=args.images, desc=label, unit='image', disable=None) as bar:
        for (s,), (t,), labels in read_features(model, loader, [own], [taught], args.images):
            for part, value in zip(parts, (s, t, labels)):
                part.append(value.cpu())
            bar.update(len(labels))
    s, t, labels = (torch.cat(part) for part in parts)
    shown = labels < args.classes
    if int(shown.sum()) <= args.perplexity:
        raise SystemExit(
            f'{int(shown.sum())} of {len(labels)} images are of the first {args.classes} classes, fewer than the '
            f'perplexity {args.perplexity:g}. Validation images may be sorted by class: raise --images.'
        )
    return s[shown].float().numpy(), t[shown].float().numpy(), labels[shown].numpy()


def draw(places: Dict[str, np.ndarray], labels: np.ndarray, names: List[str], path: str) -> None:
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, len(places), figsize=(3.2 * len(places) + 1.2, 3.4), squeeze=False, layout='constrained'
    )
    palette = plt.get_cmap('tab10' if labels.max() < 10 else 'tab20')
    for axis, (label, points) in zip(axes[0], places.items()):
        for i in sorted(set(labels.tolist())):
            chosen = points[labels == i]
            axis.scatter(chosen[:, 0], chosen[:, 1], s=5, color=palette(i % palette.N), label=names[i])
        axis.set(title=label, xticks=[], yticks=[])
    handles, texts = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, texts, loc='outside right center', fontsize=8, markerscale=2)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    args = parse_args()
    students = labelled(args.students, 'CHECKPOINT')
    model, loader = load_distillation(args)
    found: Dict[str, np.ndarray] = {}
    for label, path in students.items():
        load_strictly(model.student, path, 'student')
        found[label], teacher, labels = embeddings(model, loader, args, label)
    from sklearn.manifold import TSNE

    places = {}
    for label, values in {'teacher': teacher, **found}.items():
        rank = effective_rank(torch.from_numpy(values))
        print(f'{label}: {values.shape[1]} features, effective rank {rank:.1f}; placing {len(values)} images...')
        scaled = (values - values.mean(0)) / (values.std(0) + 1e-5)
        places[label] = TSNE(perplexity=args.perplexity, random_state=args.seed, init='pca').fit_transform(scaled)
    meta = getattr(loader.dataset, 'metainfo', None) or {}
    names = list(meta.get('classes') or map(str, range(int(labels.max()) + 1)))
    draw(places, labels, names, args.out)
    print(f'Written: {args.out}')


if __name__ == '__main__':
    main()
