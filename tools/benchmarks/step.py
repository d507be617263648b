# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""Benchmark a training step, plain and distilled, with every option: ``python tools/benchmarks/step.py``."""

import argparse
import copy
import functools
import os.path as osp
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import torch
from mmengine.analysis import parameter_count
from mmengine.config import Config
from mmengine.registry import MODELS

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # For the modules in tools/.

from benchmarks.profiling import STEP_PARTS, profile_steps
from benchmarks.reporting import add_benchmark_arguments, parse_benchmark_arguments, report
from benchmarks.timing import STEP_COLUMNS, measure_steps, random_batch, teacher_forward, training_step
from common.arguments import CONFIGS
from common.configs import build_with_random_weights, check_distillation, hide_warnings, image_side, read_config
from common.methods import student_alone

FLAGSHIP = osp.join(CONFIGS, 'rsd', 'swin-t_to_mobilenetv2_in1k.py')
SMALL = osp.join(CONFIGS, 'quickstart', 'resnet_to_vit_digits.py')
#: Settings of a config, by their name in the tables.
OPTIONS: Dict[str, Dict[str, Any]] = {
    'teacher in bfloat16': {'model.teacher.precision': 'bfloat16'},
    'teacher in float16': {'model.teacher.precision': 'float16'},
    'teacher channels-last': {'model.teacher.channels_last': True},
    'student channels-last': {'model.channels_last': True},
    'teacher compiled': {'model.teacher.compile': True},
    'student and loss compiled': {'model.compile': True},
    'fused optimizer': {'optim_wrapper.optimizer.fused': True},
    'checkpointed student': {'model.student.backbone.with_cp': True},
}
PLAIN, VALIDATION, TEACHER, DISTILLED = 'plain student', 'validation', "teacher's forward", 'distilled'
APART = 'plain + teacher apart'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Time and memory of a training step with random images and weights')
    parser.add_argument('config', nargs='?', help='config of a distillation (default: Swin-T to MobileNetV2)')
    parser.add_argument('--batches', type=int, nargs='+', help='default: 16 on a CPU, 64 and 256 on a GPU')
    parser.add_argument(
        '--options',
        nargs='*',
        choices=OPTIONS,
        metavar='OPTION',
        help='options to measure (default: all but compilation and half precision; with --profile none): '
        + ', '.join(OPTIONS),
    )
    parser.add_argument('--profile', action='store_true', help='measure the parts of a step instead')
    parser.add_argument('--amp', choices=['float16', 'bfloat16'], help="AmpOptimWrapper's dtype; needs an accelerator")
    add_benchmark_arguments(parser, 'work_dirs/benchmarks/step.json')
    args = parse_benchmark_arguments(parser)
    args.config = args.config or (SMALL if args.quick else FLAGSHIP)
    args.batches = args.batches or ([16] if args.quick or args.device == 'cpu' else [64, 256])
    if args.options is None:
        default = [] if args.profile else OPTIONS
        args.options = [name for name in default if 'compiled' not in name and 'float' not in name]
    if args.amp and args.device == 'cpu':
        parser.error('--amp: automatic mixed precision needs an accelerator, and none is visible. Leave it out.')
    return args


def build_steps(cfg: Config, batch: int, args: argparse.Namespace) -> Tuple[Dict[str, Any], int]:
    """Return the functions to measure by name, and the bytes of the teacher's weights."""
    torch.manual_seed(0)
    distiller = build_with_random_weights(cfg)
    plain = MODELS.build(student_alone(cfg).model)
    data = random_batch(plain, batch, image_side(cfg), args.device)

    def step_of(model: Any, cfg: Config) -> Callable[[], Any]:
        amp = dict(type='AmpOptimWrapper', dtype=args.amp, loss_scale='dynamic') if args.amp else {}
        return training_step(model, {**cfg.optim_wrapper, **amp}, data, args.device)

    distilled = step_of(distiller, cfg)  # Moves the distiller to the device.
    images = distiller.data_preprocessor(copy.deepcopy(data), True)['inputs']
    dtype = getattr(torch, args.amp) if args.amp else None
    autocast = torch.autocast(torch.device(args.device).type, dtype, enabled=dtype is not None)
    validated = copy.deepcopy(plain).to(args.device).eval()
    functions = {
        PLAIN: step_of(plain, cfg),
        VALIDATION: torch.no_grad()(functools.partial(validated.val_step, data)),
        TEACHER: autocast(teacher_forward(distiller, images)),
        DISTILLED: distilled,
    }
    for name in args.options:
        changed = copy.deepcopy(cfg)
        changed.merge_from_dict(OPTIONS[name])
        try:
            functions[name] = step_of(build_with_random_weights(changed), changed)
        except ValueError as error:
            print(f'{name}: left out, since {error}')
    return functions, 4 * parameter_count(distiller.teacher.model)['']


def measure_batch(cfg: Config, batch: int, args: argparse.Namespace) -> List[Dict[str, Any]]:
    functions, weights = build_steps(cfg, batch, args)
    measured = measure_steps(functions, batch, args.rounds, args.device)
    plain = measured[PLAIN]['ms']
    total = plain + measured[TEACHER]['ms']
    return [
        dict(
            row,
            step=name,
            over_plain=row['ms'] / plain,
            over_sum=None if name in (PLAIN, VALIDATION, TEACHER) else row['ms'] / total,
            teacher_weights_mb=weights / 2**20,
        )
        for name, row in measured.items()
    ]


def profile_batch(cfg: Config, batch: int, args: argparse.Namespace) -> List[Dict[str, Any]]:
    steps, _ = build_steps(cfg, batch, args)
    del steps[VALIDATION]
    teacher = steps.pop(TEACHER)
    measured = profile_steps(steps, teacher, args.rounds, args.device)
    measured = {APART: measured.pop(PLAIN), **measured}
    return [
        dict(
            batch=batch,
            part=part,
            **{f'{name}, ms': 1e3 * seconds[part] for name, seconds in measured.items()},
            share=100 * measured[DISTILLED][part] / measured[DISTILLED]['whole step'],
        )
        for part in (*STEP_PARTS, 'whole step')
    ]


def main() -> None:
    args = parse_args()
    hide_warnings()
    cfg = read_config(args.config)
    check_distillation(cfg, args.config)
    rows_of = profile_batch if args.profile else measure_batch
    try:
        rows = [row for batch in args.batches for row in rows_of(cfg, batch, args)]
    except ValueError as error:
        sys.exit(f'{args.config!r}: {error}')
    columns: Dict[str, Tuple[str, str]] = dict(batch=('batch', ''))
    if args.profile:
        columns['part'] = ('part', '')
        columns.update({name: (name, '.1f') for name in rows[0] if name.endswith(', ms')})
        columns['share'] = (f'% of {DISTILLED}', '.1f')
    else:
        columns.update(
            step=('step', ''),
            **STEP_COLUMNS,
            over_plain=('/ plain', '.3f'),
            over_sum=('/ (plain + teacher)', '.3f'),
            peak_mb=('peak of a step beyond the weights, MB', '.0f'),
        )
    report(args.out, args.device, columns, rows)


if __name__ == '__main__':
    main()
