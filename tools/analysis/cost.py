# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""What does a distillation cost? ``python tools/analysis/cost.py CONFIG --methods ofa kd``.

Counts parameters and multiply-adds (which MMPretrain's tables call FLOPs) of student, teacher and projectors, and
measures inference and training steps, with and without the teacher, on random images and weights.
"""

import argparse
import copy
import logging
import os
import os.path as osp
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List

import torch
from mmengine.config import Config, DictAction
from mmengine.registry import MODELS

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # tools/, of which this script uses modules

from benchmarks.timing import (
    STEP_COLUMNS,
    add_benchmark_arguments,
    measure_steps,
    parse_benchmark_arguments,
    random_batch,
    report,
    training_step,
)
from common.cost import count_distillation, count_parameters
from common.images import image_side
from common.launch import build_with_random_weights, check_distillation, read_config
from common.methods import student_alone, with_method

METHODS = osp.join(osp.dirname(osp.abspath(__file__)), '..', '..', 'configs', '_base_', 'methods')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Parameters, FLOPs, throughput and memory of a distillation')
    parser.add_argument('config', help='config of the distillation')
    parser.add_argument('--methods', nargs='+', default=[], metavar='METHOD', help='further ones to put beside it')
    parser.add_argument('--batch', type=int, help="images of a step (default: the config's; 16 on a CPU)")
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='change the config: KEY=VALUE ...')
    add_benchmark_arguments(parser, 'work_dirs/benchmarks/cost.json')
    args = parse_benchmark_arguments(parser)
    known = sorted(osp.splitext(name)[0] for name in os.listdir(METHODS) if name.endswith('.py'))
    for method in args.methods:
        if method not in known:
            parser.error(f'--methods: there is no method {method!r}. There are: {", ".join(known)}.')
    return args


def tell(cfg: Config, args: argparse.Namespace) -> List[Dict[str, Any]]:
    """The networks, and the steps of every method."""
    side, own = image_side(cfg), build_with_random_weights(copy.deepcopy(cfg))
    batch = args.batch or (4 if args.quick else 16 if args.device == 'cpu' else cfg.train_dataloader.batch_size)
    plain = MODELS.build(student_alone(cfg).model)
    data = random_batch(plain, batch, side, args.device)
    counts = count_distillation(own.eval(), side)
    images = own.to(args.device).data_preprocessor(copy.deepcopy(data), False)['inputs']
    rows: Dict[str, Dict[str, Any]] = {
        'student': dict(params=counts['student_params'], flops=counts['student_flops']),
        'teacher': dict(params=counts['teacher_params'], flops=counts['teacher_flops']),
        'training the student alone': {},
    }
    functions: Dict[str, Callable[[], Any]] = {
        'student': torch.no_grad()(lambda: own(images)),
        'teacher': lambda: own.teacher(images, own._teacher_taps),
        'training the student alone': training_step(plain, cfg.optim_wrapper, data, args.device),
    }
    name = osp.splitext(osp.basename(args.config))[0]
    configs = {name: cfg, **{name: with_method(cfg, osp.join(METHODS, f'{name}.py')) for name in args.methods}}
    for name, changed in configs.items():
        model = build_with_random_weights(copy.deepcopy(changed))
        rows[f'training, {name}'] = dict(params=count_parameters(model.terms))
        functions[f'training, {name}'] = training_step(model, changed.optim_wrapper, data, args.device)
    measured = measure_steps(functions, batch, args.rounds, args.device)
    for name, row in rows.items():
        row.update(what=name, **measured[name])
        if name.startswith('training'):
            row['over_alone'] = row['ms'] / measured['training the student alone']['ms']
    return list(rows.values())


def main() -> None:
    args = parse_args()
    logging.disable(logging.WARNING)  # building tells of random weights
    cfg = read_config(args.config, args.cfg_options)
    check_distillation(cfg, args.config)
    try:
        rows = tell(cfg, args)
    except ValueError as error:
        sys.exit(f'{args.config!r}: {error}')
    for row in rows:
        row['params_m'] = None if row.get('params') is None else row['params'] / 1e6
        row['gflops'] = None if row.get('flops') is None else row['flops'] / 1e9
    print(f'{rows[0]["batch"]} images a step. Parameters of a training are those that only training has.\n')
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
