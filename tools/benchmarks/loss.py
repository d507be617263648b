# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Benchmark RSDLoss against straightforward forms of it, forward and backward: ``python tools/benchmarks/loss.py``.

Under ``torchrun --nproc_per_node N``, ``RSDLoss(sync=True)`` over the samples of N processes is measured as well.
"""

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Tuple

import torch
import torch.distributed as dist
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # For the modules in tools/.

from benchmarks.reporting import add_benchmark_arguments, parse_benchmark_arguments, report
from benchmarks.timing import measure, peak_memory
from common.launch import destroy_process_group
from rsd_mm import RSDLoss

#: Usual batches per GPU, and widths of a teacher's embedding.
SHAPES = [(64, 768), (128, 768), (128, 1280), (256, 768), (1024, 768), (128, 192)]
GROWTH = [(batch, dim) for batch in (16, 64, 256, 1024) for dim in (192, 768, 1536, 4096)]
MASKED, WHOLE, GRAM, OURS = 'masked D x D', 'D x D', 'B x B', 'RSDLoss'
SYNC = 'RSDLoss(sync=True)'


def standardize(x: Tensor) -> Tensor:
    return (x - x.mean(dim=0)) / (x.std(dim=0, unbiased=False) + 1e-5)


def masked(s: Tensor, t: Tensor) -> Tensor:
    """The formula as written: both sums by a boolean mask of the D x D matrix."""
    p = standardize(t).T @ standardize(s) / len(s)
    diagonal = torch.eye(len(p), dtype=torch.bool, device=p.device)
    return 0.1 * ((p[diagonal] - 1).square().sum() + 0.01 * p[~diagonal].square().sum())


def whole(s: Tensor, t: Tensor) -> Tensor:
    """The D x D matrix without a mask."""
    p = standardize(t).T @ standardize(s) / len(s)
    diagonal = p.diagonal()
    return 0.1 * ((diagonal - 1).square().sum() + 0.01 * (p.square().sum() - diagonal.square().sum()))


def gram(s: Tensor, t: Tensor) -> Tensor:
    """The same by an identity with two B x B matrices."""
    a, b = standardize(s), standardize(t)
    diagonal = (a * b).sum(dim=0) / len(s)
    total = ((a @ a.T) * (b @ b.T)).sum() / len(s) ** 2
    return 0.1 * ((diagonal - 1).square().sum() + 0.01 * (total - diagonal.square().sum()))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Time and memory of RSDLoss and of straightforward forms of it')
    parser.add_argument('--shapes', nargs='+', metavar='BxD', help='e.g. 128x768')
    parser.add_argument('--growth', action='store_true', help='batches of 16 to 1024, embeddings of 192 to 4096')
    add_benchmark_arguments(parser, 'work_dirs/benchmarks/loss.json')
    args = parse_benchmark_arguments(parser)
    args.sizes = GROWTH if args.growth else SHAPES[::5] if args.quick else SHAPES
    if args.shapes:
        if not all(re.fullmatch(r'\d+x\d+', shape) for shape in args.shapes):
            parser.error(f'--shapes: a shape is BxD, such as 128x768; received {" ".join(args.shapes)}.')
        args.sizes = [tuple(map(int, shape.split('x'))) for shape in args.shapes]
    return args


def measure_shape(batch: int, dim: int, args: argparse.Namespace) -> Dict[str, Any]:
    """Return times, ratios and memory for a shape."""
    torch.manual_seed(0)
    t = torch.randn(batch, dim, device=args.device)
    s = (0.5 * t + torch.randn_like(t)).requires_grad_()
    forms: Dict[str, Callable[[Tensor, Tensor], Tensor]] = {MASKED: masked, WHOLE: whole, GRAM: gram, OURS: RSDLoss()}
    if dist.is_initialized():
        forms[SYNC] = RSDLoss(sync=True)
    steps = {name: lambda form=form: torch.autograd.grad(form(s, t), s) for name, form in forms.items()}
    gradients = [step()[0] for name, step in steps.items() if name != SYNC]
    for gradient in gradients:
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-3, atol=1e-3 * float(gradients[0].abs().max()))
    # Processes that synchronize have to make the same number of calls.
    seconds = measure(steps, args.rounds, least=0 if dist.is_initialized() else 0.02)
    memory = {name: peak_memory(step, args.device) for name, step in steps.items()}
    better = min(seconds[WHOLE], seconds[GRAM])
    return dict(
        batch=batch,
        dim=dim,
        **{f'{name}, ms': 1e3 * value for name, value in seconds.items()},
        over_masked=seconds[MASKED] / seconds[OURS],
        over_better=better / seconds[OURS],
        **{f'{name}, MB': value / 2**20 for name, value in memory.items()},
        memory_units=memory[OURS] / (4 * (batch * dim + min(batch, dim) ** 2)),
    )


def main() -> None:
    args = parse_args()
    if 'WORLD_SIZE' in os.environ:
        dist.init_process_group('nccl' if args.device.startswith('cuda') else 'gloo')
        if args.device.startswith('cuda'):
            torch.cuda.set_device(int(os.environ['LOCAL_RANK']))
    rows = [measure_shape(batch, dim, args) for batch, dim in args.sizes]
    if dist.is_initialized():
        rows = [dict(row, processes=dist.get_world_size()) for row in rows]
        main_process = dist.get_rank() == 0
        dist.barrier()
        destroy_process_group()
        if not main_process:
            return
    columns: Dict[str, Tuple[str, str]] = dict(batch=('B', ''), dim=('D', ''))
    names = [name for name in (MASKED, WHOLE, GRAM, OURS, SYNC) if f'{name}, ms' in rows[0]]
    columns.update({f'{name}, ms': (f'{name}, ms', '.2f') for name in names})
    columns.update(
        over_masked=(f'{MASKED} / ours', '.1f'),
        over_better=('better of the two others / ours', '.2f'),
        **{f'{MASKED}, MB': (f'peak of {MASKED}, MB', '.1f'), f'{OURS}, MB': ('peak of ours, MB', '.1f')},
        memory_units=('... in B D + min(B, D)^2 numbers', '.1f'),
    )
    report(args.out, args.device, columns, rows)


if __name__ == '__main__':
    main()
