# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Measure what a distillation costs: ``python tools/analysis/cost.py CONFIG --methods ofa kd``.

Counts parameters and multiply-adds (FLOPs, in MMPretrain's tables) of student, teacher and projectors, and measures
inference and training steps, with and without the teacher, with random images and weights.
"""

import argparse
import copy
import sys
from pathlib import Path
from typing import Any, Dict, List

import torch
from mmengine.analysis import parameter_count
from mmengine.config import Config
from mmengine.registry import MODELS

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # For the modules in tools/.

from benchmarks.reporting import add_benchmark_arguments, parse_benchmark_arguments, report
from benchmarks.timing import STEP_COLUMNS, measure_steps, random_batch, teacher_forward, training_step
from common.arguments import add_cfg_options, known_methods, name_of
from common.configs import build_with_random_weights, check_distillation, hide_warnings, image_side, read_config
from common.cost import count_distillation
from common.methods import student_alone, with_method

ALONE = 'training the student alone'


def parse_args() -> argparse.Namespace:
    methods = known_methods()
    parser = argparse.ArgumentParser(description='Parameters, FLOPs, throughput and memory of a distillation')
    parser.add_argument('config', help='config of the distillation')
    parser.add_argument(
        '--methods',
        nargs='+',
        default=[],
        choices=methods,
        metavar='METHOD',
        help=f'methods to compare with: {", ".join(methods)}',
    )
    parser.add_argument('--batch', type=int, help="images per step (default: the config's; 16 on a CPU)")
    add_cfg_options(parser)
    add_benchmark_arguments(parser, 'work_dirs/benchmarks/cost.json')
    return parse_benchmark_arguments(parser)


def measure(cfg: Config, args: argparse.Namespace) -> List[Dict[str, Any]]:
    """Return a row for each network, and for a training step of each method."""
    side, own = image_side(cfg), build_with_random_weights(cfg)
    batch = args.batch or (4 if args.quick else 16 if args.device == 'cpu' else cfg.train_dataloader.batch_size)
    plain = MODELS.build(student_alone(cfg).model)
    data = random_batch(plain, batch, side, args.device)
    counts = count_distillation(own.eval(), side)
    images = own.to(args.device).data_preprocessor(copy.deepcopy(data), False)['inputs']
    rows: Dict[str, Dict[str, Any]] = {
        name: dict(params=counts[f'{name}_params'], flops=counts[f'{name}_flops']) for name in ('student', 'teacher')
    }
    rows[ALONE] = {}
    functions = {
        'student': torch.no_grad()(lambda: own(images)),
        'teacher': teacher_forward(own, images),
        ALONE: training_step(plain, cfg.optim_wrapper, data, args.device),
    }
    for name, changed in {name_of(args.config): cfg, **{name: with_method(cfg, name) for name in args.methods}}.items():
        try:
            model = build_with_random_weights(changed)
        except ValueError as error:
            if name not in args.methods:
                raise
            print(f'LEFT OUT, since it does not fit the pair: {name}. {error}\n')
            continue
        rows[f'training, {name}'] = dict(params=parameter_count(model.terms)[''])
        functions[f'training, {name}'] = training_step(model, changed.optim_wrapper, data, args.device)
    measured = measure_steps(functions, batch, args.rounds, args.device)
    for name, row in rows.items():
        row.update(what=name, **measured[name])
        for key, short, unit in (('params', 'params_m', 1e6), ('flops', 'gflops', 1e9)):
            row[short] = row[key] / unit if key in row else None
        if name.startswith('training'):
            row['over_alone'] = row['ms'] / measured[ALONE]['ms']
    return list(rows.values())


def main() -> None:
    args = parse_args()
    hide_warnings()
    cfg = read_config(args.config, args.cfg_options)
    check_distillation(cfg, args.config)
    try:
        rows = measure(cfg, args)
    except ValueError as error:
        sys.exit(f'{args.config!r}: {error}')
    print(f'{rows[0]["batch"]} images per step. Parameters of a training are those that only training has.\n')
    columns = dict(
        what=('', ''),
        params_m=('parameters, M', '.2f'),
        gflops=('GFLOPs an image', '.2f'),
        **STEP_COLUMNS,
        over_alone=('/ alone', '.2f'),
        peak_mb=('peak beyond the weights, MB', '.0f'),
    )
    report(args.out, args.device, columns, rows)


if __name__ == '__main__':
    main()
