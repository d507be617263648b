# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Draw the figure of the method: ``python tools/dev/draw_method.py [FILE]``."""

import sys
from pathlib import Path

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import FancyBboxPatch

FILE = Path(__file__).resolve().parents[2] / 'docs' / 'images' / 'method.svg'
TEACHER, STUDENT, EXTRA, PLAIN = '#dbe7f5', '#fde6cf', '#fdf3c8', '#eeeeee'


def box(axes, x, y, width, text, color, style='-'):
    """Draw a box of height 0.8 around (x, y)."""
    patch = FancyBboxPatch(
        (x - width / 2, y - 0.4), width, 0.8, boxstyle='round,pad=0.04', fc=color, ec='0.3', ls=style
    )
    axes.add_patch(patch)
    axes.text(x, y, text, ha='center', va='center', fontsize=9)


def arrow(axes, start, end, text='', style='-', side=0.13):
    axes.annotate(
        '', end, start, arrowprops=dict(arrowstyle='-|>', color='0.3', lw=1.2, ls=style, shrinkA=0, shrinkB=0)
    )
    if text:
        axes.text((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + side, text, ha='center', va='bottom', fontsize=8.5)


def matrix(axes):
    """Draw a cross-correlation matrix close to the identity."""
    noise = np.abs(np.random.default_rng(0).normal(0, 0.06, (9, 9)))
    inset = axes.inset_axes((9.0, 0.62, 1.36, 1.36), transform=axes.transData)
    inset.imshow(np.maximum(noise, 0.93 * np.eye(9)), cmap='Blues', vmin=0, vmax=1)
    inset.set(xticks=[], yticks=[])
    axes.text(9.68, 2.08, 'cross-correlation $P$', ha='center', va='bottom', fontsize=8.5)


def main():
    matplotlib.rcParams['svg.hashsalt'] = 'method'  # For reproducible files.
    figure, axes = plt.subplots(figsize=(10.6, 3.3))
    axes.set(xlim=(0, 12.7), ylim=(-1.35, 2.6), aspect='equal')
    axes.axis('off')
    box(axes, 0.85, 1.3, 1.3, 'images,\naugmented', PLAIN)
    box(axes, 3.3, 2.0, 1.9, 'teacher, frozen\n(Swin, say)', TEACHER)
    box(axes, 3.3, 0.6, 1.9, 'student\n(MobileNet, say)', STUDENT)
    arrow(axes, (1.54, 1.45), (2.31, 1.95))
    arrow(axes, (1.54, 1.15), (2.31, 0.65))
    box(axes, 6.5, 0.6, 2.0, 'projector, while\ntraining only', EXTRA, '--')
    arrow(axes, (4.29, 0.6), (5.46, 0.6), '$z_s$')
    arrow(axes, (7.54, 0.6), (8.96, 1.1), '$h(z_s)$', side=0.06)
    arrow(axes, (4.29, 2.0), (8.96, 1.55), '$z_t$ (no gradient)')
    matrix(axes)
    arrow(axes, (10.42, 1.3), (10.95, 1.3))
    axes.text(11.02, 1.3, '$L_{RSD}$:\n$P \\to$ identity', va='center', fontsize=10)
    box(axes, 6.5, -0.85, 2.0, "student's classifier", STUDENT)
    arrow(axes, (4.87, 0.6), (5.46, -0.8))
    arrow(axes, (7.54, -0.85), (10.95, -0.85))
    axes.text(11.02, -0.85, '$L_{CE}$: labels', va='center', fontsize=10)
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else FILE
    metadata = dict(Date=None) if out.suffix == '.svg' else None
    figure.savefig(out, bbox_inches='tight', metadata=metadata, dpi=150)


if __name__ == '__main__':
    main()
